"""The fleet of rollout workers: sends a request to the least loaded one and gives back its trajectory.

Invariants:
- `sample` returns exactly one trajectory or raises `Undeliverable`; when a worker dies, hangs or is quarantined, its
  requests are sampled anew on another, at most `MAX_ATTEMPTS` times;
- a worker in quarantine gets no request and delivers no answer;
- `version` is the newest version that every serving worker has attested (the weight bus says so by `attested`).
One task per worker collects its answers; it is also the worker's heartbeat, so that a dead actor is noticed at once
and a hanging one after `answer_timeout_s`.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Protocol

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError

from actors.engine import EngineError, EngineLoad, GenerationRequest
from actors.trajectory import Trajectory
from orchestrator.deadline import DeadlineMissed, all_within, within
from orchestrator.errors import PacelineError, RunError, last_line

MAX_ATTEMPTS = 3
COLLECT_WAIT_S = 0.5
COLLECT_TIMEOUT_S = 60.0
"""A collect call answers after `COLLECT_WAIT_S` unless the worker's event loop hangs (a long update, a dead host)."""
WORKER_FAILURES = (RayError, EngineError, DeadlineMissed)


class Undeliverable(PacelineError):
    """A request failed on every worker that tried it."""


class FaultListener(Protocol):
    """Is told of each worker that leaves the fleet."""

    def worker_lost(self, worker: str, reason: str) -> None: ...


@dataclass(slots=True)
class _Pending:
    request: GenerationRequest
    answer: "asyncio.Future[Trajectory]"
    deadline: float
    attempts: int = 1


@dataclass(slots=True)
class Member:
    """One worker of the fleet, as the driver sees it."""

    name: str
    actor: ActorHandle
    pending: dict[str, _Pending] = field(default_factory=dict)
    outbox: list[GenerationRequest] = field(default_factory=list)
    load: EngineLoad = field(default_factory=lambda: EngineLoad(0, 0, 0.0))
    version: int = 0
    pump: "asyncio.Task[None] | None" = None


class RolloutFleet:
    """Args:
    workers: started actors by name.
    answer_timeout_s: deadline of one answer on one worker.
    clock: monotonic seconds.
    """

    def __init__(
        self,
        workers: dict[str, ActorHandle],
        *,
        answer_timeout_s: float,
        faults: FaultListener,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._members = {name: Member(name, actor) for name, actor in workers.items()}
        self._quarantined: dict[str, str] = {}
        self._answer_timeout_s = answer_timeout_s
        self._faults = faults
        self._clock = clock
        self.tokens = 0
        """Response tokens delivered since the fleet began."""

    @property
    def members(self) -> tuple[Member, ...]:
        """The workers that serve."""
        return tuple(self._members.values())

    @property
    def version(self) -> int:
        return min((member.version for member in self._members.values()), default=0)

    def begin(self) -> None:
        """Start collecting; call on the event loop that will await `sample`."""
        for member in self._members.values():
            member.pump = asyncio.create_task(self._pump(member), name=f"collect {member.name}")

    async def sample(self, request: GenerationRequest) -> Trajectory:
        """One answer to this request, from whichever worker delivers it.

        Raises:
            Undeliverable: every attempt failed.
            RunError: no worker is left.
        """
        answer: asyncio.Future[Trajectory] = asyncio.get_running_loop().create_future()
        self._assign(_Pending(request, answer, 0.0))
        return await answer

    def attested(self, name: str, version: int) -> None:
        """This worker serves this version from now on."""
        if name in self._members:
            self._members[name].version = version

    def quarantine(self, name: str, reason: str) -> None:
        """Take a worker out: kill its actor, sample its requests elsewhere."""
        member = self._members.pop(name, None)
        if member is None:
            return
        self._quarantined[name] = reason
        self._faults.worker_lost(name, reason)
        ray.kill(member.actor, no_restart=True)
        if member.pump is not None and member.pump is not asyncio.current_task():
            member.pump.cancel()
        for pending in member.pending.values():
            self._retry(pending, reason)

    async def close(self, timeout_s: float = 20.0) -> None:
        """Stop collecting and shut all workers down; what does not stop in time is killed."""
        members = self.members
        self._members = {}
        for member in members:
            if member.pump is not None:
                member.pump.cancel()
            for pending in member.pending.values():
                pending.answer.cancel()
        with suppress(*WORKER_FAILURES):  # they are killed below either way
            await all_within(timeout_s, [m.actor.shutdown.remote() for m in members], "shutdown of the rollout workers")
        for member in members:
            ray.kill(member.actor, no_restart=True)

    def _assign(self, pending: _Pending) -> None:
        if not self._members:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in self._quarantined.items())
            raise RunError(f"no rollout worker is left ({reasons})", "see the reasons, then start the run again")
        member = min(self._members.values(), key=lambda m: len(m.pending))
        attempt_id = f"{pending.request.request_id}#{pending.attempts}"
        pending.deadline = self._clock() + self._answer_timeout_s
        member.pending[attempt_id] = pending
        if not member.outbox:
            asyncio.get_running_loop().call_soon(self._flush, member)
        member.outbox.append(replace(pending.request, request_id=attempt_id))

    def _flush(self, member: Member) -> None:
        """Send what was assigned during this turn of the event loop as one call; `collect` sees if it fails."""
        if member.outbox:
            member.actor.submit.remote(tuple(member.outbox))
            member.outbox = []

    def _retry(self, pending: _Pending, reason: str) -> None:
        if pending.answer.done():
            return
        if pending.attempts >= MAX_ATTEMPTS:
            pending.answer.set_exception(Undeliverable(f"{pending.request.request_id}: {reason}"))
            return
        pending.attempts += 1
        try:
            self._assign(pending)
        except RunError as error:
            pending.answer.set_exception(error)

    async def _pump(self, member: Member) -> None:
        while True:
            try:
                collected = await within(
                    COLLECT_TIMEOUT_S, member.actor.collect.remote(COLLECT_WAIT_S), f"worker {member.name}"
                )
            except WORKER_FAILURES as error:
                self.quarantine(member.name, last_line(error))
                return
            member.load = collected.load
            for trajectory in collected.trajectories:
                self._deliver(member, trajectory)
            now = self._clock()
            late = [i for i, pending in member.pending.items() if pending.deadline < now]
            if late:
                self.quarantine(member.name, f"answer {late[0]} not finished in {self._answer_timeout_s:g} s")
                return

    def _deliver(self, member: Member, trajectory: Trajectory) -> None:
        pending = member.pending.pop(trajectory.completion.request_id, None)
        if pending is None:
            return
        if trajectory.completion.finish_reason == "abort":
            self._retry(pending, "aborted by the engine")
            return
        self.tokens += len(trajectory.completion.token_ids)
        if not pending.answer.done():
            pending.answer.set_result(trajectory)
