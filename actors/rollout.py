"""The rollout actor: one engine behind a submit/collect mailbox, and the gate that attestation closes.

Invariants:
- every submitted request comes back through `collect` exactly once, as a trajectory, unless one fails (the engine
  died, or cannot run it): then every later call raises that error at once, and the fleet samples elsewhere;
- an answer that was aborted, one by one or all at an update, comes back the same way, with what it has so far;
- tokens of a version that was not attested never leave the actor: an answer for which such a token was sampled here
  waits until `serve(version)` says that the version is true. (Its prefix was attested where it comes from.) A version
  that arrives again is to be attested again;
- an update that did not arrive leaves the engine serving what it served; it never goes back to an older version.
Submissions and collections are bulk calls, so that the cost of a remote call does not grow with the answers; a
collection that finds nothing waits for `wait_s` at most, which makes it the fleet's heartbeat as well.
"""

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from actors.engine import (
    ChannelAddress,
    Engine,
    EngineLoad,
    EngineSettings,
    GenerationRequest,
    SpeculationStats,
)
from actors.trajectory import Leg, Trajectory
from actors.weight_rendezvous import WeightTransferError
from learners.weights import WeightManifest

UpdatePolicy = Literal["keep", "recompute", "abort_resume"]
"""What becomes of answers in progress at an update: see `actors.settings.RolloutSettings.kv_policy`."""


@dataclass(frozen=True, slots=True)
class Collected:
    """What finished since the last call, and the engine's load now."""

    trajectories: tuple[Trajectory, ...]
    load: EngineLoad


@dataclass(frozen=True, slots=True)
class Scored:
    """What sequences are worth under one weight version.

    Attributes:
        version: attested, and in the engine from the first sequence to the last; None where an update fell in between.
        logprobs: of each sequence, every token after its first; empty where the version is not the one asked for.
    """

    version: int | None
    logprobs: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Arrival:
    """What an engine says of a version after it loaded it.

    Attributes:
        checksums: of each tensor as it arrived, by name.
        probe_logprobs: [len(probe) - 1] the engine's logprobs of the probe under the new weights.
        paused_at: when sampling was stopped, seconds since the epoch.
        paused_s: how long it stood still.
    """

    version: int
    checksums: Mapping[str, int]
    probe_logprobs: tuple[float, ...]
    paused_at: float
    paused_s: float


@dataclass(frozen=True, slots=True)
class DrafterArrival:
    """What an engine says of a version of its drafter after it loaded it; see `Arrival`."""

    version: int
    checksums: Mapping[str, int]
    paused_at: float
    paused_s: float


def make_engine(kind: Literal["vllm", "torch"], settings: EngineSettings) -> Engine:
    """The engine of that kind, not started. Imports only what that kind needs."""
    if kind == "vllm":
        from actors.vllm_engine import VllmEngine

        return VllmEngine(settings)
    from actors.speculation.for_torch import torch_speculation
    from actors.torch_engine import TorchEngine

    return TorchEngine(settings, None if settings.speculation is None else torch_speculation(settings.speculation))


@dataclass(frozen=True, slots=True)
class _Finished:
    """An answer that waits to be collected, and the versions under which it was sampled here."""

    trajectory: Trajectory
    versions: frozenset[int]


class RolloutWorker:
    """Wrapped with `ray.remote` by the fleet; all methods run on one event loop."""

    def __init__(self, name: str, kind: Literal["vllm", "torch"], settings: EngineSettings) -> None:
        self._name = name
        self._engine = make_engine(kind, settings)
        self._running: dict[str, asyncio.Task[None]] = {}
        self._finished: list[_Finished] = []
        self._arrived = asyncio.Event()
        self._failure: BaseException | None = None
        self._served = 0
        self._updates = self._attested = 0
        """Updates begun so far, and how many there were when the last was attested."""
        self._may_leave_up_to = 0

    async def start(self) -> None:
        await self._engine.start()

    async def submit(self, requests: Sequence[GenerationRequest]) -> None:
        """Take these requests; their answers come through `collect`."""
        self._check_alive()
        for request in requests:
            task = asyncio.create_task(self._sample(request), name=request.request_id)
            self._running[request.request_id] = task
            task.add_done_callback(self._ended)
        # One turn of the loop, in which the engine hears of them: an abort that follows at once finds them there.
        await asyncio.sleep(0)

    async def abort(self, request_ids: Sequence[str]) -> None:
        """End these answers now; what they have comes through `collect`. Ids that are not in progress are ignored."""
        self._check_alive()
        await self._engine.abort(request_ids)

    async def collect(self, wait_s: float) -> Collected:
        """Answers that finished since the last call; waits up to `wait_s` for the first."""
        self._check_alive()
        if not self._releasable():
            self._arrived.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._arrived.wait(), wait_s)
            self._check_alive()
        released = self._releasable()
        self._finished = [finished for finished in self._finished if not self._may_leave(finished)]
        return Collected(tuple(finished.trajectory for finished in released), self._engine.load())

    async def score(self, version: int, sequences: Sequence[Sequence[int]]) -> Scored:
        """Logprobs of these sequences under that version; see `Scored` for when they are not given."""
        self._check_alive()
        updates = self._updates
        if self._attested != updates or self._served != version:
            return Scored(self._served if self._attested == updates else None)
        found = await asyncio.gather(*[self._engine.score(sequence) for sequence in sequences])
        if self._updates != updates:
            return Scored(None)
        return Scored(version, tuple(map(tuple, found)))

    async def open_channel(self, address: ChannelAddress) -> None:
        await self._engine.open_channel(address)

    async def update(
        self, manifest: WeightManifest, probe_ids: Sequence[int], kv_policy: UpdatePolicy = "keep"
    ) -> Arrival:
        """Pause, take the weights that the learner is sending, resume, and report what arrived.

        Answers with tokens of the new version are held back until `serve(manifest.version)`.

        Args:
            kv_policy: with `abort_resume` all answers in progress come back through `collect` as they are.

        Raises:
            WeightTransferError: the weights did not arrive, or are older than those served. The engine is intact and
                goes on with what it had; the channel must be opened anew.
            EngineError: the engine is lost.
        """
        self._check_alive()
        if self._served > 0 and manifest.version < self._served:
            raise WeightTransferError(
                f"version {manifest.version} of the weights is older than version {self._served}, which {self._name} "
                "serves: nothing was loaded"
            )
        self._updates += 1
        paused_at, start = time.time(), time.perf_counter()
        await self._engine.pause("recompute" if kv_policy == "recompute" else "keep")
        try:
            if kv_policy == "abort_resume":
                await self._engine.abort(tuple(self._running))
            checksums = await self._engine.receive_weights(manifest)
        except WeightTransferError:
            if self._attested == self._updates - 1:
                self._attested = self._updates  # what was attested is still there
            await self._engine.resume()
            raise
        self._may_leave_up_to = min(self._may_leave_up_to, manifest.version - 1)
        await self._engine.resume()
        paused_s = time.perf_counter() - start
        logprobs = await self._engine.score(probe_ids)
        return Arrival(manifest.version, dict(checksums), tuple(logprobs), paused_at, paused_s)

    async def update_drafter(self, manifest: WeightManifest) -> DrafterArrival:
        """Pause, take the drafter's weights that the learner is sending, and go on; what is sampled is the same law.

        Raises:
            WeightTransferError: they did not arrive; the engine drafts with what it had. The channel must be opened
                anew.
            EngineError: the engine is lost.
        """
        self._check_alive()
        paused_at, start = time.time(), time.perf_counter()
        await self._engine.pause()
        try:
            checksums = await self._engine.receive_weights(manifest, "drafter")
        finally:
            await self._engine.resume()
        return DrafterArrival(manifest.version, dict(checksums), paused_at, time.perf_counter() - start)

    async def speculation_stats(self) -> SpeculationStats:
        """See `Engine.speculation_stats`."""
        self._check_alive()
        return await self._engine.speculation_stats()

    async def serve(self, version: int) -> None:
        """This version is attested: its answers may leave."""
        self._served = self._may_leave_up_to = version
        self._attested = self._updates
        self._arrived.set()

    async def shutdown(self) -> None:
        for task in tuple(self._running.values()):
            task.cancel()
        await self._engine.shutdown()

    async def _sample(self, request: GenerationRequest) -> None:
        submitted = time.time()
        completion = await self._engine.generate(request)
        sampled = completion.versions[sum(len(segment.token_ids) for segment in request.prefix) :]
        leg = Leg(self._name, submitted, time.time(), len(sampled), completion.speculated)
        self._finished.append(_Finished(Trajectory(completion, (leg,)), frozenset(sampled)))
        self._arrived.set()

    def _ended(self, task: "asyncio.Task[None]") -> None:
        """A request that ended in an error must not vanish: from now on every call raises it."""
        if self._running.get(task.get_name()) is task:
            del self._running[task.get_name()]
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failure = self._failure or error
            self._arrived.set()

    def _releasable(self) -> list[_Finished]:
        return [finished for finished in self._finished if self._may_leave(finished)]

    def _may_leave(self, finished: _Finished) -> bool:
        return all(version <= self._may_leave_up_to for version in finished.versions)

    def _check_alive(self) -> None:
        if self._failure is not None:
            raise self._failure
