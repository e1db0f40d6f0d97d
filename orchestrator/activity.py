"""What every actor does now, and how much of the run it stood idle.

The driver says what the learner does; what the engines and rewards do is read from their handles twice a second, so
the engines' idle time is a sampled figure. Invariant: figures cover the time from `begin` to `end` alone.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean
from typing import Literal, Protocol

from orchestrator.monitoring.scene import EngineScene, Scene
from orchestrator.policies.dispatch import Dispatcher
from orchestrator.reward_client import RewardClient
from orchestrator.rollout_fleet import RolloutFleet

SAMPLE_S = 0.5
WAITS_KEPT = 3
LearnerDoes = Literal["waits", "trains", "publishes", "evaluates", "saves"]


@dataclass(frozen=True, slots=True)
class Lap:
    """The time since the last lap: its length, the learner's wait in it, and the tokens that engines delivered."""

    seconds: float
    waited_s: float
    tokens: int

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds if self.seconds > 0 else 0.0


class ActivityListener(Protocol):
    """Is told what the learner did, from when to when, seconds since the epoch, and where everybody stands."""

    def learner_did(self, doing: LearnerDoes, began_at: float, ended_at: float) -> None: ...

    def looked(self, scene: Scene) -> None: ...


class Activity:
    """Args: clock: monotonic seconds."""

    def __init__(
        self,
        fleet: RolloutFleet,
        rewards: RewardClient,
        dispatcher: Dispatcher,
        listener: ActivityListener,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._fleet, self._rewards, self._dispatcher = fleet, rewards, dispatcher
        self._listener, self._clock = listener, clock
        self._learner = "starts"
        self._idle: dict[str, float] = {}
        self._began = self._lap_began = clock()
        self._waited = 0.0
        self._lap_tokens = 0
        self._train_s = 0.0
        self._running = False
        self._waits: deque[float] = deque(maxlen=WAITS_KEPT)
        self._waits_since: float | None = None

    def wait_ahead(self) -> float | None:
        """Seconds for which the learner will go on waiting, by the mean of its last waits; None while it does not."""
        if self._waits_since is None or not self._waits:
            return None
        return max(0.0, fmean(self._waits) - (self._clock() - self._waits_since))

    @property
    def train_s(self) -> float:
        """Seconds from `begin` to `end` (or now)."""
        return self._clock() - self._began if self._running else self._train_s

    def begin(self) -> None:
        """Training starts: count from here."""
        self._began = self._lap_began = self._clock()
        self._waited, self._lap_tokens = 0.0, self._fleet.tokens
        self._idle = dict.fromkeys(["learner", *(member.link.name for member in self._fleet.members)], 0.0)
        self._running = True

    def end(self) -> None:
        self._train_s, self._running = self.train_s, False
        self._learner = "done"

    def lap(self) -> Lap:
        """The time since the last call (or `begin`)."""
        now, tokens = self._clock(), self._fleet.tokens
        lap = Lap(now - self._lap_began, self._waited, tokens - self._lap_tokens)
        self._lap_began, self._waited, self._lap_tokens = now, 0.0, tokens
        return lap

    @contextmanager
    def learner(self, doing: LearnerDoes, what: str = "") -> Iterator[None]:
        """The learner does this inside the block; waiting counts as idle."""
        self._learner, start, began_at = f"{doing} {what}".strip(), self._clock(), time.time()
        self._waits_since = start if doing == "waits" else None
        try:
            yield
        finally:
            self._listener.learner_did(doing, began_at, time.time())
            self._waits_since = None
            if doing == "waits" and self._running:
                seconds = self._clock() - start
                self._waits.append(seconds)
                self._waited += seconds
                self._idle["learner"] += seconds

    async def watch(self) -> None:
        """Keep the engines' idle time, and whoever watches, up to date until cancelled."""
        last = self._clock()
        while True:
            await asyncio.sleep(SAMPLE_S)
            now = self._clock()
            for member in self._fleet.members:
                if self._running and member.link.load.running == 0:
                    name = member.link.name  # perhaps of an engine that has joined since
                    self._idle[name] = self._idle.get(name, 0.0) + now - last
            last = now
            self._listener.looked(self._scene())

    def idle_fractions(self) -> dict[str, float]:
        """Share of the training time that each actor stood idle."""
        return {name: round(idle / self.train_s, 4) for name, idle in self._idle.items() if self.train_s > 0}

    def _scene(self) -> Scene:
        dispatcher = self._dispatcher
        return Scene(
            tuple(
                EngineScene(
                    member.link.name,
                    member.link.load.running,
                    member.concurrency.limit,
                    member.link.load.kv_use,
                    member.version,
                )
                for member in self._fleet.members
            ),
            waiting=self._fleet.waiting,
            to_score=self._rewards.waiting,
            buffered=len(dispatcher.buffer),
            in_flight=dispatcher.in_flight,
            aside=dispatcher.aside,
            learner=self._learner,
            idle=self.idle_fractions(),
        )
