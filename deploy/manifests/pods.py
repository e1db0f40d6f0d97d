"""How many pods there are of each kind, and what each holds: the one place where a topology becomes numbers of pods.

Bundles that ask for the same nodes share a kind of pods. Engines have a pod each, so that they come and go one by one;
ranks share pods as far as a node's GPUs reach. Bundles of different sizes share one pod or none, so that whatever order
Ray places them in, the last one finds room.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from deploy.manifests.names import check_nodes, slug
from orchestrator.config import Recipe
from orchestrator.errors import SettingError
from orchestrator.placement import DRAFTER, REWARD, Bundle
from orchestrator.stages.recipes import StageRecipe

GIB = 2**30
MOST_ACTORS = 8
"""Of one pod without GPUs."""
HOST_GIB, HOST_GIB_PER_GPU = 3, 24
"""Main memory of an actor for which the topology sets none aside, and of one for each GPU that it has."""
RAY_GIB = 1
"""Of Ray's own processes in a pod."""
SCRATCH_GIB = 1
"""Shared memory of an actor beside the object store: of NCCL, and of the processes of an engine."""
ROLES = {"rollout": "rollout", "learner": "learner", REWARD: "reward", DRAFTER: "drafter", "model": "judge"}
"""By what an actor's name begins with."""


@dataclass(frozen=True, slots=True)
class PodGroup:
    """Pods of one kind.

    Attributes:
        nodes: custom resource that they offer, by which actors find them.
        roles: of the actors in them.
        pods, most: how many there are, and how many there may be.
        cores: that a pod has; `ray_cpus` of them Ray gives away.
        actors_bytes: main memory that Ray gives away.
        store_bytes, scratch_bytes: of shared memory, for Ray's object store and beside it.
    """

    nodes: str
    roles: frozenset[str]
    pods: int
    most: int
    cores: int
    ray_cpus: int
    gpus: int
    actors_bytes: int
    store_bytes: int
    scratch_bytes: int

    @property
    def name(self) -> str:
        return slug(self.nodes)

    @property
    def role(self) -> str:
        """The one that it is labelled by: whatever must not be lost comes first."""
        return next(role for role in ("learner", "rollout", "judge", "drafter", "reward") if role in self.roles)

    @property
    def shared_bytes(self) -> int:
        return self.store_bytes + self.scratch_bytes

    @property
    def memory_bytes(self) -> int:
        """Of the container; what lies in shared memory counts."""
        return self.actors_bytes + self.shared_bytes + RAY_GIB * GIB


def pod_groups(stages: Iterable[tuple[StageRecipe, Sequence[Bundle]]], *, gpus_per_pod: int) -> tuple[PodGroup, ...]:
    """The pods in which all stages can run, one after another.

    Args:
        stages: each with what Ray sets aside for it; every bundle names its nodes.
        gpus_per_pod: most GPUs of one pod.

    Raises:
        SettingError: one actor has more GPUs than a pod may have; or two kinds of nodes have the same name.
    """
    found: dict[str, PodGroup] = {}
    for stage, bundles in stages:
        for nodes in dict.fromkeys(bundle.nodes or "" for bundle in bundles):
            group = _group(stage, [bundle for bundle in bundles if (bundle.nodes or "") == nodes], gpus_per_pod)
            found[nodes] = _largest(found[nodes], group) if nodes in found else group
    twice = [name for name, count in Counter(group.name for group in found.values()).items() if count > 1]
    if twice:
        raise SettingError("topology", f"two names of nodes become {twice[0]} in Kubernetes", "rename one of them")
    return tuple(found.values())


def _group(stage: StageRecipe, bundles: Sequence[Bundle], gpus_per_pod: int) -> PodGroup:
    role = role_of(bundles[0].actors[0])
    check_nodes(f"topology.{role}.nodes", bundles[0].nodes or "")
    classes = _classes(bundles)
    pods, held = _spread(classes, gpus_per_pod, stage.topology.learner.sequence_parallel)
    actors = sum(count * len(bundle.actors) for bundle, count in zip(classes, held, strict=True))
    ray_cpus = math.ceil(sum(count * bundle.cpus for bundle, count in zip(classes, held, strict=True)))
    computing = sum(count * _threads(stage, bundle) for bundle, count in zip(classes, held, strict=True))
    return PodGroup(
        nodes=bundles[0].nodes or "",
        roles=frozenset(role_of(actor) for bundle in bundles for actor in bundle.actors),
        pods=pods,
        most=max(pods, _most(stage, classes)),
        cores=max(1, ray_cpus, computing),
        ray_cpus=ray_cpus,
        gpus=sum(_gpus(bundle, count) for bundle, count in zip(classes, held, strict=True)),
        actors_bytes=sum(count * _memory(stage, bundle) for bundle, count in zip(classes, held, strict=True)),
        store_bytes=stage.ray.object_store_mb * 2**20,
        scratch_bytes=actors * SCRATCH_GIB * GIB,
    )


def role_of(actor: str) -> str:
    return ROLES[actor.partition("-")[0]]


def _classes(bundles: Sequence[Bundle]) -> dict[Bundle, int]:
    """How many there are of each kind of bundle; one stands for all of its kind."""
    counted: dict[tuple[object, ...], list[Bundle]] = {}
    for bundle in bundles:
        kind = (tuple(role_of(actor) for actor in bundle.actors), bundle.cpus, bundle.gpus, bundle.memory_bytes)
        counted.setdefault(kind, []).append(bundle)
    return {alike[0]: len(alike) for alike in counted.values()}


def _spread(classes: dict[Bundle, int], gpus_per_pod: int, sequence_parallel: int) -> tuple[int, list[int]]:
    """Number of pods, and how many of each class one holds."""
    for bundle in classes:
        if _gpus(bundle, 1) > gpus_per_pod:
            reason = f"{bundle.actors[0]} has {bundle.gpus:g} GPUs and a pod at most {gpus_per_pod}"
            raise SettingError("--gpus-per-pod", reason, "raise it to what a node has, or lower tensor_parallel")
    if _engines_alone(classes):
        ((engine, count),) = classes.items()
        together = _sharing(engine.gpus)
        return math.ceil(count / together), [together]
    for pods in range(1, 1 + (max(classes.values()) if len(classes) == 1 else 1)):
        held = [_share(bundle, count, pods, sequence_parallel) for bundle, count in classes.items()]
        gpus = sum(_gpus(bundle, number) for bundle, number in zip(classes, held, strict=True))
        if gpus <= gpus_per_pod and (gpus or sum(held) <= max(MOST_ACTORS, sequence_parallel)):
            return pods, held
    # Actors of different sizes over several pods may be put so that the last one finds no room.
    sharing = " and ".join(bundle.actors[0] for bundle in classes)
    reason = f"{sharing} are on the same nodes, and a pod of {gpus_per_pod} GPUs or {MOST_ACTORS} actors has no room"
    raise SettingError("topology", reason, "give each role nodes of its own, or raise --gpus-per-pod")


def _engines_alone(classes: dict[Bundle, int]) -> bool:
    return len(classes) == 1 and all(role_of(actor) == "rollout" for bundle in classes for actor in bundle.actors)


def _share(bundle: Bundle, count: int, pods: int, sequence_parallel: int) -> int:
    """Of so many bundles, those in one of so many pods; ranks that share rows stay together."""
    share = math.ceil(count / pods)
    if role_of(bundle.actors[-1]) != "learner":
        return share
    return math.ceil(share / sequence_parallel) * sequence_parallel


def _sharing(gpus: float) -> int:
    """Actors of so many GPUs that share one."""
    return math.floor(1 / gpus + 1e-9) if 0 < gpus < 1 else 1


def _gpus(bundle: Bundle, count: int) -> int:
    """Whole GPUs in which so many find room: a fraction lies on one of them."""
    if bundle.gpus < 1:
        return math.ceil(count / _sharing(bundle.gpus)) if bundle.gpus else 0
    return count * math.ceil(bundle.gpus)


def _memory(stage: StageRecipe, bundle: Bundle) -> int:
    """Main memory for a bundle, bytes: what the topology sets aside, or what its actors usually take."""
    if bundle.memory_bytes:
        return bundle.memory_bytes
    gib = max(HOST_GIB * len(bundle.actors), math.ceil(bundle.gpus) * HOST_GIB_PER_GPU)
    return gib * GIB + sum(_beside(stage, actor) for actor in bundle.actors)


def _beside(stage: StageRecipe, actor: str) -> int:
    """Memory that the recipe gives an actor by a setting of its own, bytes."""
    if not isinstance(stage, Recipe):
        return 0
    role, _, name = actor.partition("-")
    if role == REWARD:
        return stage.reward.workers * stage.reward.memory_mb * 2**20
    if role == "model" and not stage.topology.judge_places(name).gpus:
        return math.ceil(stage.reward.models[name].kv_cache_gib * GIB)
    return math.ceil(stage.rollout.kv_cache_gib * GIB) if role == "rollout" and stage.device == "cpu" else 0


def _threads(stage: StageRecipe, bundle: Bundle) -> int:
    """Cores that the actors of a bundle compute with, whatever Ray counts."""
    by_role = {"learner": stage.topology.learner.threads or 1}
    if isinstance(stage, Recipe):
        by_role["rollout"] = stage.topology.rollout.threads if stage.device == "cpu" else 1
        by_role["reward"] = stage.reward.workers
    return sum(by_role.get(role_of(actor), 1) for actor in bundle.actors)


def _most(stage: StageRecipe, classes: dict[Bundle, int]) -> int:
    if not isinstance(stage, Recipe) or not _engines_alone(classes):
        return 0
    (engine,) = classes
    return math.ceil((stage.topology.rollout.most or 0) / _sharing(engine.gpus))


def _largest(one: PodGroup, other: PodGroup) -> PodGroup:
    """Pods in which the actors of both have room."""
    return replace(
        one,
        roles=one.roles | other.roles,
        pods=max(one.pods, other.pods),
        most=max(one.most, other.most),
        cores=max(one.cores, other.cores),
        ray_cpus=max(one.ray_cpus, other.ray_cpus),
        gpus=max(one.gpus, other.gpus),
        actors_bytes=max(one.actors_bytes, other.actors_bytes),
        store_bytes=max(one.store_bytes, other.store_bytes),
        scratch_bytes=max(one.scratch_bytes, other.scratch_bytes),
    )
