"""A real learner and real engines in Ray actors, with fleet, bus and recruiter around them, for tests of the driver."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import psutil
import ray
from ray.actor import ActorHandle

from actors.engine import EngineSettings, GenerationRequest, Sampling
from actors.learner import LearnerWorker
from actors.rollout import RolloutWorker
from actors.settings import RolloutSettings, Tolerance, WeightSyncSettings
from actors.trajectory import Trajectory
from learners.settings import AlgorithmSettings, TrainerSettings
from orchestrator.errors import PacelineError
from orchestrator.learner_group import LearnerGroup
from orchestrator.pending import Errand
from orchestrator.policies.restart_budget import RestartBudget
from orchestrator.recruiter import Recruiter
from orchestrator.rollout_fleet import RolloutFleet
from orchestrator.roster import Member
from orchestrator.weight_bus import SyncReport, WeightBus
from orchestrator.worker_link import WorkerLink

PROBE = tuple(range(40, 80))
EXACT = Tolerance(mean=1e-4, max=1e-3)
SYNC_TIMEOUT_S = 12.0


@dataclass
class Witness:
    """Keeps what the bus and the fleet report."""

    reports: list[SyncReport] = field(default_factory=list)
    lost: list[tuple[str, str]] = field(default_factory=list)
    joined: list[tuple[str, int]] = field(default_factory=list)
    moved: list[tuple[str, str]] = field(default_factory=list)
    faults: list[BaseException] = field(default_factory=list)

    def synced(self, report: SyncReport) -> None:
        self.reports.append(report)

    def warned(self, message: str) -> None:
        raise AssertionError(f"no alarm is due here: {message}")

    def worker_lost(self, worker: str, reason: str) -> None:
        self.lost.append((worker, reason))

    def worker_joined(self, worker: str, version: int) -> None:
        self.joined.append((worker, version))

    def answer_moved(self, request_id: str, worker: str) -> None:
        self.moved.append((request_id, worker))


@dataclass
class Stage:
    """What a scenario plays with."""

    fleet: RolloutFleet
    bus: WeightBus
    learners: LearnerGroup
    witness: Witness

    def member(self, name: str) -> Member:
        return next(member for member in self.fleet.members if member.link.name == name)

    async def process_of(self, name: str) -> psutil.Process:
        """The process in which this worker's actor runs."""
        pid = await asyncio.wait_for(self.member(name).link.actor.__ray_call__.remote(_pid), 20)
        return psutil.Process(pid)

    async def sample(self, group: int, sample: int, *, tokens: int, version: int = 0) -> Trajectory:
        request = GenerationRequest(f"{group}/{sample}", (5, 6, 7), Sampling(max_tokens=tokens, seed=sample))
        return await self.fleet.sample(request, Errand(group, sample, f"p{group}", version))

    async def until(self, condition: Callable[[], object], what: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s; {self.witness}"
            await asyncio.sleep(0.02)


def _pid(_: object) -> int:
    return os.getpid()


Scenario = Callable[[Stage], Awaitable[None]]


def play(
    scenario: Scenario,
    model: Path,
    *,
    engines: dict[str, Literal["torch", "vllm"]],
    remedy: bool = True,
    drill: bool = True,
    max_restarts: int = 3,
    **rollout: object,
) -> Witness:
    """Run a scenario on a learner and these engines (name -> kind), all real and in processes of their own.

    An engine that joins under another name is `torch`.
    """
    witness = Witness()
    settings = RolloutSettings.model_validate(
        {"max_running": 8, "dtype": "float32", "start_timeout_s": 200, "answer_timeout_s": 60, **rollout}
    )

    def spawn(name: str) -> ActorHandle:
        engine = EngineSettings(
            str(model), "float32", 512, 8, kv_cache_gib=0.25, tied_head_remedy=remedy, start_timeout_s=200
        )
        return ray.remote(num_cpus=0, max_concurrency=100)(RolloutWorker).remote(
            name, engines.get(name, "torch"), engine
        )

    async def conduct() -> None:
        workers = {name: spawn(name) for name in engines}
        rank = ray.remote(num_cpus=0, concurrency_groups={"io": 8})(LearnerWorker).remote(0, 1)
        learners = LearnerGroup([rank], step_timeout_s=120)
        start = rank.start.remote(
            str(model),
            AlgorithmSettings(),
            TrainerSettings(dtype="float32"),
            temperature=1.0,
            device="cpu",
            rendezvous=await asyncio.wait_for(rank.rendezvous.remote(), 120),
        )
        await asyncio.wait_for(asyncio.gather(start, *[w.start.remote() for w in workers.values()]), 240)
        fleet = RolloutFleet([WorkerLink(*item) for item in workers.items()], settings, listener=witness)
        bus = WeightBus(
            learners,
            fleet,
            WeightSyncSettings(timeout_s=SYNC_TIMEOUT_S, drill=drill),
            settings,
            tensor_parallel=1,
            tolerance=EXACT,
            backend="gloo",
            probe_ids=PROBE,
            listener=witness,
            broken=witness.faults.append,
        )
        budget = RestartBudget(max_restarts, 600)
        recruiter = Recruiter(spawn, bus, budget=budget, start_timeout_s=200)

        def failed(fault: PacelineError) -> None:
            witness.faults.append(fault)

        fleet.begin(recruit=recruiter.replace, ready=lambda: None, failed=failed)
        try:
            await bus.open()
            await scenario(Stage(fleet, bus, learners, witness))
        finally:
            await bus.close()
            await fleet.close()
            await learners.close()

    asyncio.run(conduct())
    return witness
