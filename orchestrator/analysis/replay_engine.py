"""An engine that only counts, and the virtual clock on which it runs.

The engine decodes answers of known length at the speed of a `SpeedModel`: at most `max_running` at a time, the rest
waits in order of arrival. Every running answer gains a token per decoding step, so one counter of steps says when each
of them ends, whoever comes and goes beside it. Deterministic: events of one time happen in the order in which they were
set.
"""

import heapq
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from itertools import count

from orchestrator.analysis.speed_model import SpeedModel


class VirtualClock:
    """Seconds from 0; time passes from one event to the next."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._order), action))

    def run(self, until: Callable[[], bool], *, most: int) -> bool:
        """Let events happen until the condition holds; False if they run out first, or `most` of them did not do."""
        for _ in range(most):
            if until():
                return True
            if not self._events:
                return False
            self.now, _, action = heapq.heappop(self._events)
            action()
        return until()


@dataclass(slots=True)
class ReplayAnswer:
    """One answer on its way.

    Attributes:
        length: tokens that it will have.
        done: tokens that it has.
        version: of the weights under which its first token was sampled; None before that.
    """

    group: int
    sample: int
    length: int
    done: int = 0
    version: int | None = None


class ReplayEngine:
    """Args:
    finished: is told of each answer that reached its length.
    """

    def __init__(
        self, clock: VirtualClock, speed: SpeedModel, max_running: int, finished: Callable[[ReplayAnswer], None]
    ) -> None:
        self._clock, self._speed, self._max_running, self._finished = clock, speed, max_running, finished
        self._running: list[tuple[float, int, ReplayAnswer]] = []
        """By the step at which they end."""
        self._waiting: deque[ReplayAnswer] = deque()
        self._held: list[ReplayAnswer] = []
        self._order = count()
        self._steps = 0.0
        self._counted_at = 0.0
        self._plan_number = 0
        self._paused = False
        self._closed = False
        self._drained: Callable[[], None] | None = None
        self.version = 0
        self.busy_s = 0.0
        """Seconds in which at least one answer was on it."""

    @property
    def load(self) -> int:
        return len(self._running) + len(self._waiting) + len(self._held)

    def submit(self, answer: ReplayAnswer) -> None:
        if self._closed:
            self._held.append(answer)
            return
        self._count()
        self._waiting.append(answer)
        self._go_on()

    def abort(self, group: int) -> None:
        """Take a group's answers off; each keeps the tokens that it has."""
        self._count()
        for end, _, answer in self._running:
            if answer.group == group:
                answer.done = min(answer.length - 1, int(answer.length - (end - self._steps) + 1e-6))
        self._running = [entry for entry in self._running if entry[2].group != group]
        heapq.heapify(self._running)
        self._waiting = deque(answer for answer in self._waiting if answer.group != group)
        self._held = [answer for answer in self._held if answer.group != group]
        self._go_on()
        self._tell_drained()

    def pause(self) -> None:
        self._count()
        self._paused = True
        self._go_on()

    def resume(self, version: int) -> None:
        """Go on, under these weights."""
        self._count()
        self._paused, self.version = False, version
        self._go_on()

    def drain(self, then: Callable[[], None]) -> None:
        """Finish what is here, start nothing that comes later, and call `then`; `release` ends it."""
        self._closed, self._drained = True, then
        self._tell_drained()

    def release(self) -> None:
        held, self._held, self._closed = self._held, [], False
        for answer in held:
            self.submit(answer)

    def _count(self) -> None:
        """Bring the counter of steps up to now."""
        seconds, self._counted_at = self._clock.now - self._counted_at, self._clock.now
        if self._running:
            self.busy_s += seconds
            if not self._paused:
                self._steps += seconds / self._speed.step_s(len(self._running))

    def _go_on(self) -> None:
        """Start what may start, and set the time at which the next answer ends."""
        while self._waiting and len(self._running) < self._max_running and not self._paused:
            answer = self._waiting.popleft()
            answer.version = self.version if answer.version is None else answer.version
            heapq.heappush(self._running, (self._steps + answer.length - answer.done, next(self._order), answer))
        self._plan_number += 1
        if self._running and not self._paused:
            left = max(0.0, self._running[0][0] - self._steps) * self._speed.step_s(len(self._running))
            self._clock.after(left, partial(self._due, self._plan_number))

    def _due(self, plan_number: int) -> None:
        if plan_number != self._plan_number:
            return  # The load has changed since: another plan holds.
        self._count()
        self._steps = self._running[0][0]
        ended: list[ReplayAnswer] = []
        while self._running and self._running[0][0] <= self._steps:
            ended.append(heapq.heappop(self._running)[2])
        self._go_on()
        for answer in ended:
            answer.done = answer.length
            self._finished(answer)
        self._tell_drained()

    def _tell_drained(self) -> None:
        if self._drained is not None and not self._running and not self._waiting:
            then, self._drained = self._drained, None
            then()


def least_loaded(engines: Collection[ReplayEngine]) -> ReplayEngine:
    """Where the fleet sends the next answer."""
    return min(engines, key=lambda engine: engine.load)
