"""Memory settings: what is computed again or kept elsewhere changes no gradient."""

from pathlib import Path

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from learners.errors import UnfitError
from learners.learner import Learner
from learners.packing import pack
from learners.policy import Policy, load_policy
from learners.settings import TrainerSettings
from learners.sharding import shard_policy
from learners.trained_policy import check_fit, open_policy
from tests.learners.gradient_sums import gradient_sums
from tests.learners.ranks import CPU, run_ranks, single_rank
from tests.learners.tiny import make_learner, random_batch, tiny_model


def make(model: str, rank: int = 0, ranks: int = 1, **trainer: object) -> Learner:
    return make_learner(model, None, rank, ranks, **trainer)


def both_ways(rank: int, ranks: int, model: str, dtype: str) -> list[dict[str, torch.Tensor]]:
    return [
        gradient_sums(make(model, rank, ranks, dtype=dtype, activation_checkpointing=again), random_batch().sequences)
        for again in (False, True)
    ]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("ranks", [1, 2])
def test_computing_layers_again_changes_no_bit_of_the_gradient(
    model: str, tmp_path: Path, ranks: int, dtype: str
) -> None:
    if ranks == 1:
        with single_rank():
            kept, again = both_ways(0, 1, model, dtype)
    else:
        kept, again = run_ranks(ranks, both_ways, model, dtype, folder=tmp_path)[0]
    assert all(value.abs().max() > 0 for value in kept.values())
    assert kept.keys() == again.keys()
    assert all(torch.equal(value, again[name]) for name, value in kept.items())


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("again", [False, True])
def test_every_layer_and_nothing_else_is_computed_again(model: str, again: bool) -> None:
    learner = make(model, activation_checkpointing=again, token_budget=10_000)
    passes: dict[str, int] = {}
    policy = learner._policy.model
    watched = {"norm": policy.model.norm, **{f"mlp {n}": layer.mlp for n, layer in enumerate(policy.model.layers)}}
    for name, module in watched.items():
        # On entry: the second pass ends as soon as it has made what the backward pass wants.
        module.register_forward_pre_hook(lambda *_, name=name: passes.update({name: passes.get(name, 0) + 1}))
    learner.step(random_batch())
    assert passes == {"norm": 1, "mlp 0": 1 + again, "mlp 1": 1 + again}


@pytest.mark.usefixtures("group")
def test_less_is_kept_for_the_backward_pass(model: str) -> None:
    kept = {}
    for again in (False, True):
        policy, _ = open_policy(model, TrainerSettings(activation_checkpointing=again), None, CPU)
        sizes: dict[int, int] = {}

        def note(tensor: torch.Tensor, sizes: dict[int, int] = sizes) -> torch.Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            policy(pack([list(range(40)) * 5]))
        kept[again] = sum(sizes.values()) - sum(value.nbytes for value in policy.parameters())
    assert kept[True] < kept[False] / 4


def offloaded(rank: int, ranks: int, model: str) -> list[dict[str, torch.Tensor]]:
    """FSDP2's own offloading, as far as a machine without a GPU can run it."""
    outcomes = []
    for offload in (False, True):
        policy = Policy(load_policy(model))
        shard_policy(policy, init_device_mesh("cpu", (ranks,)), torch.float32, offload=offload)
        policy(pack([list(range(20 + rank))])).logprobs.sum().backward()
        grads = {name: value.grad for name, value in policy.named_parameters()}
        outcomes.append({name: value.full_tensor() for name, value in grads.items() if isinstance(value, DTensor)})
    return outcomes


@pytest.mark.parametrize("ranks", [1, 2])
def test_offloading_changes_no_bit_of_the_gradient(model: str, tmp_path: Path, ranks: int) -> None:
    here, away = run_ranks(ranks, offloaded, model, folder=tmp_path)[0]
    assert here
    assert all(torch.equal(value, away[name]) for name, value in here.items())


@pytest.mark.usefixtures("group")
def test_offloading_without_a_gpu_is_one_line(model: str) -> None:
    with pytest.raises(UnfitError, match=r"trainer\.cpu_offload: the learner runs on the CPU already; leave it out"):
        make(model, cpu_offload=True)


def test_what_a_model_cannot_do_is_known_from_its_configuration() -> None:
    config = tiny_model().config
    check_fit(config, TrainerSettings.model_validate({"lora": {"target_modules": ["up_proj"]}}), 1)
    with pytest.raises(UnfitError, match="called c_attn"):
        check_fit(config, TrainerSettings.model_validate({"lora": {"target_modules": ["c_attn"]}}), 1)
    with pytest.raises(UnfitError, match="3 ranks cannot share"):
        check_fit(config, TrainerSettings(), 3)
