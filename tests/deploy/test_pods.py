"""Pods have room for what Ray sets aside, whatever the topology."""

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.manifests.binding import bound, reserved, stages_of
from deploy.manifests.pods import GIB, PodGroup, pod_groups
from orchestrator.config import Recipe
from orchestrator.errors import SettingError
from orchestrator.placement import NODE_SHARE, Bundle
from orchestrator.recipe import validated
from orchestrator.stages.load import load_any
from orchestrator.stages.recipes import StageRecipe
from tests.deploy.rendered import of_kind, rendering

QUICKSTART = load_any("quickstart", ["device=cpu"])
cores = st.sampled_from([0.0, 0.25, 0.5, 1.0, 1.5, 3.0, 8.0])
memory = st.none() | st.sampled_from([0.5, 3.0, 40.0])
nodes = st.none() | st.sampled_from(["big", "small"])


@st.composite
def topologies(draw: st.DrawFn) -> Recipe:
    assert isinstance(QUICKSTART, Recipe)
    device = draw(st.sampled_from(["cpu", "gpu"]))
    workers, parallel = draw(st.integers(1, 9)), draw(st.sampled_from([1, 1, 2, 3]))
    tree = QUICKSTART.model_dump(mode="json")
    tree["device"] = device
    tree["reward"]["models"] = {name: {"model": "m"} for name in draw(st.sets(st.sampled_from(["a", "b_c"])))}
    tree["topology"] = {
        "rollout": {
            "workers": workers,
            "most": draw(st.none() | st.integers(workers, workers + 9)),
            "tensor_parallel": draw(st.sampled_from([1, 2, 4])) if device == "gpu" else 1,
            "gpus": draw(st.none() | st.sampled_from([0.2, 0.5, 0.6, 1, 2])) if device == "gpu" else None,
            "cpus": draw(cores),
            "memory_gib": draw(memory),
            "threads": draw(st.integers(1, 4)),
            "nodes": draw(nodes),
        },
        "learner": {
            "ranks": draw(st.integers(1, 6)) * parallel,
            "sequence_parallel": parallel,
            "gpus": draw(st.none() | st.sampled_from([0.5, 0.6, 1.0])),
            "cpus": draw(cores),
            "memory_gib": draw(memory),
            "nodes": draw(nodes),
        },
        "reward": {"cpus": draw(cores), "memory_gib": draw(memory), "nodes": draw(nodes)},
        "judges": {"a": {"cpus": draw(st.integers(1, 4)), "gpus": draw(st.sampled_from([0.0, 0.5, 1.0, 2.0]))}},
        "colocate": draw(st.sampled_from(["auto", "never", "always"])),
    }
    return validated(Recipe, tree)


@settings(deadline=None, max_examples=200)
@given(recipe=topologies(), gpus_per_pod=st.sampled_from([4, 8]))
def test_all_bundles_find_room_in_the_pods(recipe: Recipe, gpus_per_pod: int) -> None:
    told = bound(recipe, "run")
    assert isinstance(told, Recipe)
    refused: str | None = None
    try:
        wanted = reserved(told)
        groups = pod_groups([(told, wanted)], gpus_per_pod=gpus_per_pod)
    except SettingError as error:
        refused = error.setting
    if refused is not None:
        assert refused in ("topology.colocate", "topology", "--gpus-per-pod")
        return
    for group in groups:
        assert group.gpus <= gpus_per_pod
        assert group.most >= group.pods
        assert group.cores >= group.ray_cpus
        assert group.memory_bytes > group.actors_bytes + group.shared_bytes
    assert fits(wanted, groups)
    assert len({group.name for group in groups}) == len(groups)


def fits(bundles: tuple[Bundle, ...], groups: tuple[PodGroup, ...]) -> bool:
    """Whether a scheduler that takes the first pod with room, the largest bundles first, finds room for all."""
    pods = [
        {"nodes": group.nodes, "cpus": group.ray_cpus, "memory": group.actors_bytes, "gpus": [1.0] * group.gpus}
        for group in groups
        for _ in range(group.pods)
    ]
    for bundle in sorted(bundles, key=lambda b: (b.gpus, b.cpus, b.memory_bytes), reverse=True):
        if not any(_taken(pod, bundle) for pod in pods):
            return False
    return True


def _taken(pod: dict, bundle: Bundle) -> bool:
    if pod["nodes"] != bundle.nodes or pod["cpus"] < bundle.cpus - 1e-9 or pod["memory"] < bundle.memory_bytes:
        return False
    gpus = pod["gpus"]
    if bundle.gpus >= 1:
        free = [number for number, left in enumerate(gpus) if left == 1]
        taken = free[: math.ceil(bundle.gpus)]
        if len(taken) < bundle.gpus:
            return False
        for number in taken:
            gpus[number] = 0.0
    elif bundle.gpus:
        room = next((number for number, left in enumerate(gpus) if left >= bundle.gpus - 1e-9), None)
        if room is None:
            return False
        gpus[room] -= bundle.gpus
    pod["cpus"] -= bundle.cpus
    pod["memory"] -= bundle.memory_bytes
    return True


def made(*overrides: str, recipe: str = "quickstart", gpus_per_pod: int = 8) -> dict[str, PodGroup]:
    told = bound(load_any(recipe, overrides), "run")
    stages: list[StageRecipe] = list(stages_of(told))
    groups = pod_groups([(stage, reserved(stage)) for stage in stages], gpus_per_pod=gpus_per_pod)
    return {group.name: group for group in groups}


def test_engines_come_one_by_one_and_ranks_together() -> None:
    found = made(
        "device=gpu",
        "topology.rollout.workers=4",
        "topology.rollout.most=6",
        "topology.rollout.tensor_parallel=2",
        "topology.learner.ranks=12",
    )
    engines, learners = found["rollout"], found["learner"]
    assert (engines.pods, engines.most, engines.gpus) == (4, 6, 2)
    assert (learners.pods, learners.most, learners.gpus) == (2, 2, 6)  # 12 ranks on nodes of 8 GPUs: two halves


def test_ranks_that_share_rows_share_a_pod() -> None:
    found = made("device=gpu", "topology.learner.ranks=12", "topology.learner.sequence_parallel=4")
    assert (found["learner"].pods, found["learner"].gpus) == (2, 8)


def test_an_engine_and_its_rank_are_on_one_gpu() -> None:
    settings = ("device=gpu", "topology.colocate=always", "topology.rollout.workers=16", "topology.learner.ranks=16")
    found = made(*settings)
    assert found.keys() == {"rollout", "reward"}
    assert (found["rollout"].pods, found["rollout"].gpus, found["rollout"].role) == (2, 8, "learner")


def test_the_reward_has_cores_and_memory_for_its_children() -> None:
    reward = made("device=cpu", "reward.workers=6", "reward.memory_mb=2048")["reward"]
    assert (reward.cores, reward.ray_cpus) == (6, 0)
    assert reward.actors_bytes >= 6 * 2 * GIB


def test_what_the_topology_sets_aside_is_what_pods_have() -> None:
    settings = ("device=cpu", "topology.rollout.memory_gib=7", "topology.rollout.cpus=3", "ray.object_store_mb=512")
    job = of_kind(rendering("quickstart", *settings), "RayJob")
    (group,) = [g for g in job["spec"]["rayClusterSpec"]["workerGroupSpecs"] if g["groupName"] == "rollout"]
    container = group["template"]["spec"]["containers"][0]
    assert group["resources"] == {"CPU": "3", "memory": "7168Mi", "rollout": "1"}
    assert group["rayStartParams"]["object-store-memory"] == str(512 * 2**20)
    assert container["resources"]["requests"] == container["resources"]["limits"]
    (shared,) = [v for v in group["template"]["spec"]["volumes"] if v["name"] == "shared-memory"]
    assert shared["emptyDir"] == {"medium": "Memory", "sizeLimit": "1536Mi"}  # the store, and 1 GiB for the engine
    assert container["resources"]["limits"] == {"cpu": "3", "memory": f"{7168 + 1536 + 1024}Mi"}


def test_stages_share_pods_that_are_large_enough_for_each() -> None:
    found = made(
        "device=gpu", "stages.sft.topology.learner.ranks=8", "stages.grpo.topology.rollout.workers=3", recipe="stages"
    )
    assert found["learner"].gpus == 8
    assert found["rollout"].pods == 3


def test_an_engine_larger_than_a_node_is_refused() -> None:
    with pytest.raises(SettingError, match="rollout-0 has 8 GPUs and a pod at most 4"):
        made("device=gpu", "topology.rollout.tensor_parallel=8", gpus_per_pod=4)


def test_every_actor_of_a_run_asks_for_its_pods() -> None:
    """Nothing is left that Ray could put into the reward's sandbox, or the reward anywhere else."""
    told = bound(load_any("quickstart", ["device=gpu", "speculation=adaptive", "reward.models.j.model=m"]), "run")
    assert isinstance(told, Recipe)
    wanted = reserved(told)
    assert Counter(bundle.nodes for bundle in wanted) == Counter(["rollout", "learner", "reward", "drafter", "judge-j"])
    assert all(bundle.resources()[bundle.nodes or ""] == NODE_SHARE for bundle in wanted)
