"""Who gets which GPU."""

import pytest

from orchestrator.config import Recipe
from orchestrator.errors import SettingError
from orchestrator.placement import bundles, place
from orchestrator.rules import check_rules


def recipe(**changes: object) -> Recipe:
    base: dict[str, object] = {
        "name": "r",
        "model": "starter",
        "data": {"tasks": [{"name": "chain_sum"}]},
        "reward": {"terms": [{"name": "reasoning_gym"}]},
    }
    return Recipe.model_validate(base | changes)


def test_without_a_gpu_everything_is_on_the_cpu() -> None:
    found = place(recipe(), gpus=0)
    assert (found.device, found.engine_gpus, found.rank_gpus, found.transfer) == ("cpu", 0, 0, "gloo")


def test_a_cpu_recipe_leaves_gpus_alone() -> None:
    assert place(recipe(device="cpu"), gpus=8).device == "cpu"


def test_offloading_needs_a_gpu() -> None:
    with pytest.raises(SettingError, match=r"trainer\.cpu_offload: .* leave it out"):
        place(recipe(trainer={"cpu_offload": True}), gpus=0)
    assert place(recipe(trainer={"cpu_offload": True}), gpus=1).device == "gpu"


def test_enough_gpus_are_not_shared() -> None:
    found = place(recipe(topology={"rollout": {"workers": 2, "tensor_parallel": 2}, "learner": {"ranks": 4}}), gpus=8)
    assert (found.device, found.engine_gpus, found.rank_gpus, found.transfer) == ("gpu", 2, 1, "nccl")


def test_one_gpu_is_shared_and_weights_go_through_memory() -> None:
    found = place(recipe(), gpus=1)
    assert found.engine_gpus + found.rank_gpus == 1
    assert found.transfer == "gloo", "NCCL refuses two processes on one GPU"
    assert found.gpu_memory_utilization < 0.5


def test_too_few_gpus_are_one_line() -> None:
    with pytest.raises(SettingError, match="need 5 GPUs, this machine has 2"):
        place(recipe(topology={"rollout": {"workers": 3}, "learner": {"ranks": 2}}), gpus=2)


def test_a_gpu_recipe_without_a_gpu_is_one_line() -> None:
    with pytest.raises(SettingError, match="this machine has none"):
        place(recipe(device="gpu"), gpus=0)


def test_a_cluster_s_gpus_are_not_counted_here() -> None:
    found = place(recipe(device="gpu", ray={"address": "auto"}, topology={"learner": {"ranks": 16}}), gpus=0)
    assert (found.device, found.transfer) == ("gpu", "nccl")


PAIRS = {"rollout": {"workers": 4}, "learner": {"ranks": 4}}


def test_as_many_engines_as_ranks_may_share_gpus_pair_by_pair() -> None:
    found = place(recipe(topology=PAIRS), gpus=4)
    assert (found.engine_gpus, found.rank_gpus, found.transfer, found.shared) == (0.5, 0.5, "gloo", True)
    assert not place(recipe(topology=PAIRS), gpus=8).shared, "there is room for each"
    assert place(recipe(topology={**PAIRS, "colocate": "always"}), gpus=8).shared
    with pytest.raises(SettingError, match="need 8 GPUs, this machine has 4"):
        place(recipe(topology={**PAIRS, "colocate": "never"}), gpus=4)
    wide = {"rollout": {"workers": 4, "tensor_parallel": 2}, "learner": {"ranks": 4}, "colocate": "always"}
    with pytest.raises(SettingError, match=r"topology\.colocate: always pairs each engine with a rank"):
        place(recipe(topology=wide), gpus=64)


def test_gpus_given_by_hand_are_what_is_taken() -> None:
    halves = {"rollout": {"workers": 2, "gpus": 0.5}, "learner": {"gpus": 0.25}}
    found = place(recipe(topology=halves), gpus=2)
    assert (found.engine_gpus, found.rank_gpus) == (0.5, 0.25)


def bundles_of(gpus: int, **changes: object) -> dict[tuple[str, ...], dict[str, float]]:
    wanted = recipe(**changes)
    return {bundle.actors: bundle.resources() for bundle in bundles(wanted, place(wanted, gpus=gpus))}


def test_each_actor_has_a_bundle_of_its_own() -> None:
    topology = {
        "rollout": {"workers": 2, "tensor_parallel": 2, "cpus": 3},
        "learner": {"ranks": 2, "memory_gib": 1.5, "nodes": "big"},
        "reward": {"cpus": 4, "nodes": "caged"},
    }
    assert bundles_of(6, topology=topology, speculation={}) == {
        ("rollout-0",): {"CPU": 3, "GPU": 2},
        ("rollout-1",): {"CPU": 3, "GPU": 2},
        ("learner-0",): {"CPU": 1, "GPU": 1, "memory": 1.5 * 2**30, "big": 0.001},
        ("learner-1",): {"CPU": 1, "GPU": 1, "memory": 1.5 * 2**30, "big": 0.001},
        ("reward",): {"CPU": 4, "caged": 0.001},
        ("drafter",): {"GPU": 0.01},
    }


def test_who_shares_a_gpu_shares_a_bundle() -> None:
    topology = {"rollout": {"cpus": 2, "memory_gib": 1}, "learner": {"cpus": 3, "memory_gib": 2}}
    assert bundles_of(1, topology=topology) == {
        ("rollout-0", "learner-0"): {"CPU": 5, "GPU": 1, "memory": 3 * 2**30},
    }


def test_on_cores_alone_nobody_asks_for_a_gpu_and_who_takes_nothing_has_no_bundle() -> None:
    found = bundles_of(0, topology={"rollout": {"cpus": 0}, "learner": {"gpus": 1}}, speculation={})
    assert found == {("learner-0",): {"CPU": 1}}


def test_models_that_the_run_serves_take_what_the_topology_says() -> None:
    models = {"judge": {"model": "a"}, "far": {"model": "b", "url": "http://x/v1"}, "small": {"model": "c"}}
    reward = {"terms": [{"name": "reasoning_gym"}], "models": models}
    found = bundles_of(3, reward=reward, topology={"judges": {"judge": {"gpus": 1, "cpus": 4}}})
    assert found[("model-judge",)] == {"CPU": 4, "GPU": 1}
    assert found[("model-small",)] == {"CPU": 1}
    assert ("model-far",) not in found
    with pytest.raises(SettingError, match="need 2 GPUs, this machine has 1 for them"):
        place(recipe(reward=reward, topology={"judges": {"judge": {"gpus": 1}}, "colocate": "never"}), gpus=2)


@pytest.mark.parametrize(
    ("judges", "fault"),
    [
        ({"jugde": {}}, r"topology\.judges: no model jugde that the run serves.*did you mean judge"),
        ({"far": {}}, r"topology\.judges: no model far that the run serves"),
        ({"small": {"gpus": 1}}, r"topology\.judges\.small\.gpus: .*engine=torch, on cores"),
    ],
)
def test_judges_of_the_topology_are_models_that_the_run_serves(judges: dict[str, object], fault: str) -> None:
    models = {"judge": {"model": "a"}, "far": {"model": "b", "url": "http://x/v1"}}
    models["small"] = {"model": "c", "engine": "torch"}
    reward = {"terms": [{"name": "reasoning_gym"}], "models": models}
    with pytest.raises(SettingError, match=fault):
        check_rules(recipe(reward=reward, topology={"judges": judges}))


def test_an_elastic_range_goes_up() -> None:
    with pytest.raises(ValueError, match="most=1 is less than workers=2"):
        recipe(topology={"rollout": {"workers": 2, "most": 1}})
