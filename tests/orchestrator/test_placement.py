"""Who gets which GPU."""

import pytest

from orchestrator.config import Recipe
from orchestrator.errors import SettingError
from orchestrator.placement import place


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
    found = place(recipe(rollout={"workers": 2, "tensor_parallel": 2}, trainer={"ranks": 4}), gpus=8)
    assert (found.device, found.engine_gpus, found.rank_gpus, found.transfer) == ("gpu", 2, 1, "nccl")


def test_one_gpu_is_shared_and_weights_go_through_memory() -> None:
    found = place(recipe(), gpus=1)
    assert found.engine_gpus + found.rank_gpus == 1
    assert found.transfer == "gloo", "NCCL refuses two processes on one GPU"
    assert found.gpu_memory_utilization < 0.5


def test_too_few_gpus_are_one_line() -> None:
    with pytest.raises(SettingError, match="need 5 GPUs, this machine has 2"):
        place(recipe(rollout={"workers": 3}, trainer={"ranks": 2}), gpus=2)


def test_a_gpu_recipe_without_a_gpu_is_one_line() -> None:
    with pytest.raises(SettingError, match="this machine has none"):
        place(recipe(device="gpu"), gpus=0)


def test_a_cluster_s_gpus_are_not_counted_here() -> None:
    found = place(recipe(device="gpu", ray={"address": "auto"}, trainer={"ranks": 16}), gpus=0)
    assert (found.device, found.transfer) == ("gpu", "nccl")
