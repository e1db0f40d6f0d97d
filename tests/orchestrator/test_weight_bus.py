"""The weight bus over real Ray actors: drill, delivery, quarantine, and the trap of the tied head."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import ray

from actors.engine import EngineSettings, GenerationRequest, Sampling
from actors.learner import LearnerWorker
from actors.rollout import RolloutWorker
from actors.settings import Tolerance, WeightSyncSettings
from learners.settings import AlgorithmSettings, TrainerSettings
from orchestrator.errors import RunError
from orchestrator.learner_group import LearnerGroup
from orchestrator.rollout_fleet import RolloutFleet
from orchestrator.weight_bus import SyncReport, WeightBus
from tests.actors.tiny_model import write_checkpoint

pytestmark = pytest.mark.slow
PROBE = tuple(range(40, 80))
EXACT = Tolerance(mean=1e-4, max=1e-3)


class Witness:
    """Keeps what the bus and the fleet report."""

    def __init__(self) -> None:
        self.reports: list[SyncReport] = []
        self.lost: list[tuple[str, str]] = []

    def synced(self, report: SyncReport) -> None:
        self.reports.append(report)

    def warned(self, message: str) -> None:
        raise AssertionError(f"no alarm is due here: {message}")

    def worker_lost(self, worker: str, reason: str) -> None:
        self.lost.append((worker, reason))


@pytest.fixture(scope="module")
def tied_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("tied"), tied=True)


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, object_store_memory=128 * 2**20)
    yield
    ray.shutdown()


Scenario = Callable[[WeightBus, RolloutFleet, LearnerGroup, Witness], Awaitable[None]]


def play(scenario: Scenario, model: Path, *, engines: dict[str, str], remedy: bool = True) -> Witness:
    """Run a scenario on a learner and these engines (name -> kind), all real and in processes of their own."""
    witness = Witness()

    async def conduct() -> None:
        settings = EngineSettings(
            str(model), "float32", 256, 8, kv_cache_gib=0.25, tied_head_remedy=remedy, start_timeout_s=200
        )
        worker_class = ray.remote(num_cpus=0, max_concurrency=100)(RolloutWorker)
        workers = {name: worker_class.remote(name, kind, settings) for name, kind in engines.items()}
        rank = ray.remote(num_cpus=0, concurrency_groups={"io": 4})(LearnerWorker).remote(0, 1)
        learners = LearnerGroup([rank], step_timeout_s=120)
        rendezvous = await rank.rendezvous.remote()
        start = rank.start.remote(
            str(model),
            AlgorithmSettings(),
            TrainerSettings(dtype="float32"),
            temperature=1.0,
            device="cpu",
            rendezvous=rendezvous,
        )
        await asyncio.wait_for(asyncio.gather(start, *[w.start.remote() for w in workers.values()]), 240)
        fleet = RolloutFleet(workers, answer_timeout_s=60, faults=witness)
        bus = WeightBus(
            learners,
            fleet,
            WeightSyncSettings(timeout_s=60),
            tolerance=EXACT,
            backend="gloo",
            engine_ranks=1,
            probe_ids=PROBE,
            listener=witness,
        )
        try:
            await bus.open()
            await scenario(bus, fleet, learners, witness)
        finally:
            await fleet.close()
            await learners.close()

    asyncio.run(conduct())
    return witness


def test_drill_then_versions_are_attested_and_served(tied_model: Path) -> None:
    async def scenario(bus: WeightBus, fleet: RolloutFleet, learners: LearnerGroup, witness: Witness) -> None:
        await bus.drill()
        assert fleet.version == 0
        await learners.perturb(3, 0.05)
        await bus.deliver(await bus.snapshot(1))
        assert fleet.version == 1
        fleet.begin()
        answer = await fleet.sample(GenerationRequest("a", (5, 6, 7), Sampling(max_tokens=4)))
        assert answer.completion.versions == (1, 1, 1, 1)

    witness = play(scenario, tied_model, engines={"one": "torch"})
    assert [(r.version, r.failure) for r in witness.reports] == [(-1, None), (0, None), (1, None)]
    assert max(r.gap.max for r in witness.reports) < 1e-3


def test_the_drill_catches_a_tied_head_that_was_not_renewed(tied_model: Path) -> None:
    async def scenario(bus: WeightBus, fleet: RolloutFleet, learners: LearnerGroup, witness: Witness) -> None:
        with pytest.raises(RunError, match="all bytes arrived, yet probe logprobs differ"):
            await bus.drill()
        assert fleet.members == ()

    witness = play(scenario, tied_model, engines={"trapped": "vllm"}, remedy=False)
    assert [worker for worker, _ in witness.lost] == ["trapped"]


def test_an_engine_that_dies_in_a_sync_leaves_and_the_other_serves(tied_model: Path) -> None:
    async def scenario(bus: WeightBus, fleet: RolloutFleet, learners: LearnerGroup, witness: Witness) -> None:
        await bus.drill()
        victim = next(member for member in fleet.members if member.name == "victim")
        ray.kill(victim.actor)
        await bus.deliver(await bus.snapshot(1))
        assert [member.name for member in fleet.members] == ["survivor"]
        assert fleet.version == 1

    witness = play(scenario, tied_model, engines={"victim": "torch", "survivor": "torch"})
    assert [worker for worker, _ in witness.lost] == ["victim"]
