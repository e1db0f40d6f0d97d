"""The rollout actor: one engine behind a submit/collect mailbox, and the gate that attestation closes.

Invariants:
- every submitted request comes back through `collect` exactly once, as a trajectory, unless one fails (the engine
  died, or cannot run it): then every later call raises that error at once, and the fleet samples elsewhere;
- tokens of a version that was not attested never leave the actor: finished answers that hold such a token wait until
  `serve(version)` says that the version is true.
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
)
from actors.trajectory import Trajectory
from learners.weights import WeightManifest


@dataclass(frozen=True, slots=True)
class Collected:
    """What finished since the last call, and the engine's load now."""

    trajectories: tuple[Trajectory, ...]
    load: EngineLoad


@dataclass(frozen=True, slots=True)
class Arrival:
    """What an engine says of a version after it loaded it.

    Attributes:
        checksums: of each tensor as it arrived, by name.
        probe_logprobs: [len(probe) - 1] the engine's logprobs of the probe under the new weights.
        paused_s: how long sampling stood still.
    """

    version: int
    checksums: Mapping[str, int]
    probe_logprobs: tuple[float, ...]
    paused_s: float


def make_engine(kind: Literal["vllm", "torch"], settings: EngineSettings) -> Engine:
    """The engine of that kind, not started. Imports only what that kind needs."""
    if kind == "vllm":
        from actors.vllm_engine import VllmEngine

        return VllmEngine(settings)
    from actors.torch_engine import TorchEngine

    return TorchEngine(settings)


class RolloutWorker:
    """Wrapped with `ray.remote` by the fleet; all methods run on one event loop."""

    def __init__(self, name: str, kind: Literal["vllm", "torch"], settings: EngineSettings) -> None:
        self._name = name
        self._engine = make_engine(kind, settings)
        self._running: set[asyncio.Task[None]] = set()
        self._finished: list[Trajectory] = []
        self._arrived = asyncio.Event()
        self._failure: BaseException | None = None
        self._attested = 0

    async def start(self) -> None:
        await self._engine.start()

    async def submit(self, requests: Sequence[GenerationRequest]) -> None:
        """Take these requests; their answers come through `collect`."""
        self._check_alive()
        for request in requests:
            task = asyncio.create_task(self._sample(request))
            self._running.add(task)
            task.add_done_callback(self._ended)

    async def collect(self, wait_s: float) -> Collected:
        """Answers that finished since the last call; waits up to `wait_s` for the first."""
        self._check_alive()
        if not self._releasable():
            self._arrived.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._arrived.wait(), wait_s)
            self._check_alive()
        released = self._releasable()
        self._finished = [t for t in self._finished if not self._may_leave(t)]
        return Collected(tuple(released), self._engine.load())

    async def open_channel(self, address: ChannelAddress) -> None:
        await self._engine.open_channel(address)

    async def update(self, manifest: WeightManifest, probe_ids: Sequence[int]) -> Arrival:
        """Pause, take the weights that the learner is sending, resume, and report what arrived.

        Answers with tokens of the new version are held back until `serve(manifest.version)`.
        """
        self._check_alive()
        start = time.perf_counter()
        await self._engine.pause()
        checksums = await self._engine.receive_weights(manifest)
        await self._engine.resume()
        paused_s = time.perf_counter() - start
        logprobs = await self._engine.score(probe_ids)
        return Arrival(manifest.version, dict(checksums), tuple(logprobs), paused_s)

    async def serve(self, version: int) -> None:
        """This version is attested: its answers may leave."""
        self._attested = version
        self._arrived.set()

    async def shutdown(self) -> None:
        for task in tuple(self._running):
            task.cancel()
        await self._engine.shutdown()

    async def _sample(self, request: GenerationRequest) -> None:
        submitted = time.time()
        completion = await self._engine.generate(request)
        self._finished.append(Trajectory(completion, self._name, submitted, time.time()))
        self._arrived.set()

    def _ended(self, task: "asyncio.Task[None]") -> None:
        """A request that ended in an error must not vanish: from now on every call raises it."""
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failure = self._failure or error
            self._arrived.set()

    def _releasable(self) -> list[Trajectory]:
        return [t for t in self._finished if self._may_leave(t)]

    def _may_leave(self, trajectory: Trajectory) -> bool:
        return all(segment.version <= self._attested for segment in trajectory.completion.segments)

    def _check_alive(self) -> None:
        if self._failure is not None:
            raise self._failure
