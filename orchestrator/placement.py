"""Which accelerators each actor gets, what Ray sets aside for it, and over what weights travel. Pure: a recipe and a
count of GPUs in.

With enough GPUs each learner rank has one and each engine `tensor_parallel` of them, and weights travel over NCCL.
Where engines and ranks share GPUs, pair by pair, weights take the way through main memory (gloo): NCCL cannot join two
processes on one GPU.
"""

from dataclasses import dataclass
from typing import Literal

from learners.settings import LearnerPlaces
from orchestrator.config import Recipe
from orchestrator.errors import SettingError
from orchestrator.topology import DrafterPlaces, JudgePlaces, RewardPlaces, RolloutPlaces

Device = Literal["cpu", "gpu"]
Places = RolloutPlaces | LearnerPlaces | RewardPlaces | DrafterPlaces | JudgePlaces
SHARED_MEMORY_SHARE = 0.45
"""Of a shared GPU's memory, at most what the engine takes; the learner needs the rest."""
DRAFTER_GPU_SLIVER = 0.01
REWARD, DRAFTER = "reward", "drafter"
NODE_SHARE = 0.001
"""Of a custom resource that names nodes, what each actor takes."""


@dataclass(frozen=True, slots=True)
class Placement:
    """GPUs of one engine, of one learner rank and of the drafter's trainer (fractions share a GPU), and the weights'
    way between them."""

    device: Device
    engine_gpus: float
    rank_gpus: float
    transfer: Literal["gloo", "nccl"]
    gpu_memory_utilization: float
    shared: bool = False
    """Whether each engine has its GPU together with a rank."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """What Ray sets aside on one node.

    Attributes:
        actors: who is in it, by name; several where they share a GPU.
        nodes: custom resource of the nodes that it may lie on; None is any.
    """

    actors: tuple[str, ...]
    cpus: float
    gpus: float
    memory_bytes: int = 0
    nodes: str | None = None

    def resources(self) -> dict[str, float]:
        """As Ray names them, without those of which it takes nothing."""
        named = {"CPU": self.cpus, "GPU": self.gpus, "memory": float(self.memory_bytes)}
        if self.nodes is not None:
            named[self.nodes] = NODE_SHARE
        return {name: amount for name, amount in named.items() if amount}


def rollout_name(number: int) -> str:
    return f"rollout-{number}"


def rank_name(rank: int) -> str:
    return f"learner-{rank}"


def judge_name(model: str) -> str:
    return f"model-{model}"


def place(recipe: Recipe, *, gpus: int) -> Placement:
    """Args:
    gpus: how many this machine has, or the cluster that the recipe joins, whose nodes decide where there is room.

    Raises:
        SettingError: the recipe asks for more than there is.
    """
    memory, joins_cluster = recipe.rollout.gpu_memory_utilization, recipe.ray.address is not None
    if recipe.device == "gpu" and not gpus and not joins_cluster:
        fix = "set device=cpu or ray.address=..."
        raise SettingError("device", "the recipe asks for a GPU and this machine has none", fix)
    if recipe.device == "cpu" or (recipe.device == "auto" and not gpus):
        if recipe.trainer.cpu_offload:
            raise SettingError("trainer.cpu_offload", "the learner runs on the CPU already", "leave it out")
        return Placement("cpu", 0, 0, "gloo", memory)
    apart, together = _apart(recipe), _together(recipe)
    engine, rank = recipe.topology.rollout.gpus, recipe.topology.learner.gpus
    room = float("inf") if joins_cluster else gpus - _judges_gpus(recipe)
    wanted = recipe.topology.colocate
    if wanted != "always" and apart <= room:
        per_engine = recipe.topology.rollout.tensor_parallel if engine is None else engine
        return Placement("gpu", per_engine, 1 if rank is None else rank, "nccl", memory)
    if wanted != "never" and together is not None and together <= room:
        per_engine, per_rank = 0.5 if engine is None else engine, 0.5 if rank is None else rank
        return Placement("gpu", per_engine, per_rank, "gloo", min(memory, SHARED_MEMORY_SHARE), shared=True)
    raise _too_few(recipe, apart, room)


def bundles(recipe: Recipe, placement: Placement) -> tuple[Bundle, ...]:
    """What Ray sets aside for a run, one bundle an actor, or a pair of actors that share a GPU.

    Who takes nothing has no bundle, and runs on any node.
    """
    topology = recipe.topology
    rollout, learner = topology.rollout, topology.learner
    engines = [rollout_name(number) for number in range(rollout.workers)]
    ranks = [rank_name(rank) for rank in range(learner.ranks)]
    made: list[Bundle] = []
    if placement.shared:
        made += [_pair(engine, rank, recipe, placement) for engine, rank in zip(engines, ranks, strict=True)]
    else:
        made += [_bundle(name, rollout, rollout.cpus, placement.engine_gpus) for name in engines]
        made += rank_bundles(learner, placement)
    made.append(_bundle(REWARD, topology.reward, topology.reward.cpus, 0))
    if recipe.speculation is not None and recipe.speculation.learns:
        made.append(_bundle(DRAFTER, topology.drafter, topology.drafter.cpus, drafter_gpus(recipe, placement)))
    judges = {name: topology.judge_places(name) for name in _served(recipe)}
    made += [_bundle(judge_name(name), judge, judge.cpus, judge.gpus) for name, judge in judges.items()]
    return tuple(bundle for bundle in made if bundle.resources())


def rank_bundles(learner: LearnerPlaces, placement: Placement) -> list[Bundle]:
    """What Ray sets aside for a learner group without others."""
    return [_bundle(rank_name(rank), learner, learner.cpus, placement.rank_gpus) for rank in range(learner.ranks)]


def drafter_gpus(recipe: Recipe, placement: Placement) -> float:
    """GPUs of the drafter's trainer."""
    given = recipe.topology.drafter.gpus
    if placement.device == "cpu" or given is not None:
        return given or 0
    return DRAFTER_GPU_SLIVER


def _bundle(name: str, places: Places, cpus: float, gpus: float) -> Bundle:
    gib = 0.0 if isinstance(places, DrafterPlaces) else places.memory_gib or 0.0
    return Bundle((name,), cpus, gpus, int(gib * 2**30), places.nodes)


def _pair(engine: str, rank: str, recipe: Recipe, placement: Placement) -> Bundle:
    rollout, learner = recipe.topology.rollout, recipe.topology.learner
    memory = int(((rollout.memory_gib or 0) + (learner.memory_gib or 0)) * 2**30)
    gpus = placement.engine_gpus + placement.rank_gpus
    return Bundle((engine, rank), rollout.cpus + learner.cpus, gpus, memory, rollout.nodes or learner.nodes)


def _apart(recipe: Recipe) -> float:
    """GPUs that are needed where nobody shares one."""
    rollout, learner = recipe.topology.rollout, recipe.topology.learner
    per_engine = rollout.tensor_parallel if rollout.gpus is None else rollout.gpus
    return rollout.workers * per_engine + learner.ranks * (1 if learner.gpus is None else learner.gpus)


def _together(recipe: Recipe) -> int | None:
    """GPUs that are needed where each engine shares one with a rank; None where they make no pairs."""
    rollout, learner = recipe.topology.rollout, recipe.topology.learner
    paired = rollout.tensor_parallel == 1 and rollout.workers == learner.ranks
    return learner.ranks if paired else None


def _judges_gpus(recipe: Recipe) -> float:
    return sum(recipe.topology.judge_places(name).gpus for name in _served(recipe))


def _served(recipe: Recipe) -> list[str]:
    return sorted(name for name, model in recipe.reward.models.items() if model.served)


def _too_few(recipe: Recipe, apart: float, room: float) -> SettingError:
    rollout, learner = recipe.topology.rollout, recipe.topology.learner
    if recipe.topology.colocate == "always" and _together(recipe) is None:
        reason = (
            f"always pairs each engine with a rank, and there are {rollout.workers} engines of "
            f"{rollout.tensor_parallel} GPUs and {learner.ranks} ranks"
        )
        return SettingError("topology.colocate", reason, "use as many engines as ranks, of one GPU each")
    return SettingError(
        "topology.rollout.workers",
        f"{rollout.workers} engines of {rollout.tensor_parallel} GPUs and {learner.ranks} learner ranks need "
        f"{apart:g} GPUs, this machine has {max(room, 0):g} for them",
        "use fewer, or set ray.address to a cluster",
    )
