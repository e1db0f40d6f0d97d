"""The reward actor as the driver sees it: one verb, answered within a deadline whatever becomes of the actor.

Invariants: `score` returns a score for each response or raises `RewardLost`; an actor that died or hangs is replaced
and the responses are scored anew, which gives the same verdict. A heartbeat tells a hanging actor from a busy one.
What terms remember of prompts is kept here, apart from the actor, so that it outlives one; it is part of a checkpoint.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Protocol

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError

from orchestrator.deadline import DeadlineMissed, within
from orchestrator.errors import PacelineError, last_line
from rewards.history import PromptHistory
from rewards.models.address import Address
from rewards.quarantine import Quarantine
from rewards.response import Failure, Response, Score
from rewards.settings import RewardSettings

RESTART_S = 10.0
"""A child that was killed and its libraries loaded again, on a busy machine."""
MAX_ATTEMPTS = 3
MISSED_BEATS = 4


class RewardLost(PacelineError):
    """No reward actor could score these responses."""


class RewardListener(Protocol):
    def worker_lost(self, worker: str, reason: str) -> None: ...

    def prompt_quarantined(self, prompt: str, reason: str) -> None: ...


class RewardClient:
    """Args:
    spawn: makes the actor; called again when it is lost.
    settings: bound each response; a call's deadline grows with the responses that may stand in line before it.
    """

    def __init__(
        self,
        spawn: Callable[[], ActorHandle],
        settings: RewardSettings,
        *,
        listener: RewardListener,
    ) -> None:
        self._spawn, self._settings, self._listener = spawn, settings, listener
        self._addresses: dict[str, Address] = {}
        self._actor = spawn()
        self._waiting = 0
        self._calls = count()
        self.quarantine = Quarantine(settings.quarantine_after)
        """What is no longer scored; part of a checkpoint, so that nothing has to hang anew to be known."""
        self.history = PromptHistory(settings.history_prompts)
        """What terms remember; the driver ends a step with `history.turn()`, and saves and restores it."""

    @property
    def waiting(self) -> int:
        """Responses handed over and not scored yet."""
        return self._waiting

    async def start(self) -> None:
        """Wait until the actor can score. Raises: RayError where its terms cannot work."""
        await within(self._settings.start_timeout_s + RESTART_S, self._actor.warm_up.remote(), "start of the rewards")

    async def score(self, responses: Sequence[Response], *, remember: bool = False) -> list[Score]:
        """A score for each answer to one prompt, in order.

        Args:
            remember: note what the terms want to know of the prompt when it comes again.

        Raises:
            RewardLost: the actor was lost `MAX_ATTEMPTS` times over these responses.
        """
        item = responses[0].item if responses else ""
        if self.quarantine.holds(item):
            reason = f"{item} is in quarantine after {self._settings.quarantine_after} visits that hung"
            return [Score(self._settings.fallback, {}, reason, failure=Failure("quarantined"))] * len(responses)
        self._waiting += len(responses)
        try:
            scores = await self._score_somewhere(responses)
        finally:
            self._waiting -= len(responses)
        if self.quarantine.seen(item, scores):
            visits = self._settings.quarantine_after
            self._listener.prompt_quarantined(item, f"the scoring of its answers hung in {visits} visits")
        if remember:
            self.history.note(item, [fact for score in scores for fact in score.facts])
        return scores

    def readdress(self, addresses: Mapping[str, Address]) -> None:
        """The models of these names are to be found there from now on, by this actor and those after it."""
        self._addresses |= addresses
        if self._addresses:
            self._actor.readdress.options(concurrency_group="heartbeat").remote(self._addresses)

    def restart(self, reason: str) -> None:
        """Replace the actor; what it was scoring is scored anew."""
        self._replace(self._actor, reason)

    async def close(self) -> None:
        ray.kill(self._actor, no_restart=True)

    async def _score_somewhere(self, responses: Sequence[Response]) -> list[Score]:
        reason = ""
        for _ in range(MAX_ATTEMPTS):
            actor = self._actor
            try:
                return await self._score_on(actor, responses)
            except (RayActorError, DeadlineMissed) as error:
                reason = last_line(error)
                self._replace(actor, reason)
        raise RewardLost(f"the reward worker was lost {MAX_ATTEMPTS} times ({reason})")

    async def _score_on(self, actor: ActorHandle, responses: Sequence[Response]) -> list[Score]:
        # The worst case: every response in line runs into its deadline and costs its child a restart.
        each = self._settings.deadline_s + RESTART_S
        patience_s = self._settings.start_timeout_s + each * self._waiting
        item, ticket = (responses[0].item if responses else ""), str(next(self._calls))
        asked = actor.score.remote(responses, self.history.of(item), self.history.shared, ticket)
        call: asyncio.Future[list[Score]] = asyncio.ensure_future(within(patience_s, asked, "reward worker"))
        try:
            while not (await asyncio.wait({call}, timeout=self._settings.heartbeat_s))[0]:
                alive = actor.heartbeat.options(concurrency_group="heartbeat").remote()
                await within(MISSED_BEATS * self._settings.heartbeat_s, alive, "heartbeat of the reward worker")
            return call.result()
        except asyncio.CancelledError:  # nobody needs the group any more
            actor.cancel.options(concurrency_group="heartbeat").remote(ticket)
            raise
        finally:
            call.cancel()

    def _replace(self, lost: ActorHandle, reason: str) -> None:
        if lost is self._actor:  # else another call saw it first
            self._actor = self._spawn()
            self.readdress({})
            self._listener.worker_lost("reward", reason)
            ray.kill(lost, no_restart=True)
