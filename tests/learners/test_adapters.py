"""Adapters alone train; everybody else sees the weights that they amount to."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from learners.adapters import Adapters, WithoutAdapters, find_targets
from learners.errors import CheckpointError, UnfitError
from learners.learner import Learner
from learners.packing import pack
from learners.policy import load_policy, token_logprobs
from learners.settings import LoraSettings
from learners.sharding import local_shard
from tests.learners.ranks import run_ranks, single_rank
from tests.learners.tiny import VOCABULARY, make_learner, random_batch, tiny_model, tokenizer

PROBE = list(range(1, VOCABULARY, 3))
LORA = {"rank": 5, "alpha": 8.0}
ATTENTION = ("q_proj", "o_proj")


def make(
    model: str, rank: int = 0, ranks: int = 1, algorithm: dict[str, object] | None = None, **trainer: object
) -> Learner:
    return make_learner(model, algorithm, rank, ranks, **{"learning_rate": 1e-2, "lora": LORA, **trainer})


def parameters(learner: Learner) -> dict[str, torch.Tensor]:
    return {name: local_shard(value.detach()).clone() for name, value in learner._policy.model.named_parameters()}


def hand_merged(learner: Learner, scale: float) -> dict[str, torch.Tensor]:
    """W + scale B A of every adapted layer, written out, by plain name."""
    own = parameters(learner)
    return {
        name.replace(".base_layer.", "."): value
        + scale * own[name.replace("base_layer", "lora_B.default")] @ own[name.replace("base_layer", "lora_A.default")]
        for name, value in own.items()
        if name.endswith(".base_layer.weight")
    }


@pytest.mark.usefixtures("group")
def test_adapters_train_and_the_base_keeps_its_bits(model: str) -> None:
    learner = make(model)
    before = parameters(learner)
    for seed in range(3):
        learner.step(random_batch(seed=seed))
    after = parameters(learner)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if ".lora_" in name}
    state = learner._record.state()
    assert all(".lora_" in name for name in state if name.startswith(("model.", "optimizer.exp_avg")))
    assert sum(name.startswith("model.") for name in state) == 2 * 2 * 7, "A and B of seven layers in two blocks"


@pytest.mark.usefixtures("group")
def test_training_begins_at_the_checkpoint_to_the_bit(model: str) -> None:
    adapted, plain = make(model), make(model, lora=None)
    assert adapted.probe_logprobs(PROBE) == plain.probe_logprobs(PROBE)
    for name, value in plain.snapshot(0)[1].items():
        assert torch.equal(adapted.snapshot(0)[1][name], value)
    batch = random_batch()
    assert adapted.step(batch)["loss"] == pytest.approx(plain.step(batch)["loss"], rel=1e-6)


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_snapshot_is_the_merged_weights_under_plain_names(model: str, dtype: str) -> None:
    learner, plain = make(model, dtype=dtype), make(model, dtype=dtype, lora=None)
    learner.step(random_batch())
    manifest, tensors = learner.snapshot(1)
    assert manifest.tensors == plain.snapshot(1)[0].tensors, "as a learner without adapters would send it"
    expected = hand_merged(learner, 8.0 / 5)
    assert len(expected) == 2 * 7
    for name, value in expected.items():
        assert value.isfinite().all()
        torch.testing.assert_close(tensors[name].float(), value.to(getattr(torch, dtype)).float())
    untouched = {name: value for name, value in parameters(plain).items() if name not in expected}
    assert all(torch.equal(tensors[name], value.to(tensors[name].dtype)) for name, value in untouched.items())


@pytest.mark.usefixtures("group")
def test_merged_forward_equals_the_adapters_forward_up_to_rounding(model: str) -> None:
    learner = make(model)
    start = learner.probe_logprobs(PROBE)
    learner.step(random_batch())
    with_adapters = learner._policy(pack([PROBE])).logprobs.tolist()
    merged = learner.probe_logprobs(PROBE)
    assert with_adapters == pytest.approx(merged, abs=2e-5)
    assert max(abs(a - b) for a, b in zip(start, merged, strict=True)) > 0.05, "the step is far from nothing"


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_probe_is_that_of_the_exported_weights_to_the_bit(model: str, tmp_path: Path, dtype: str) -> None:
    learner = make(model, dtype=dtype)
    learner.step(random_batch())
    before = parameters(learner)
    manifest, tensors = learner.snapshot(1)
    truth = learner.truth(manifest, tensors, PROBE)
    learner.save(tmp_path / "out", tokenizer())
    reader = make(str(tmp_path / "out"), dtype=dtype, lora=None)
    assert reader.probe_logprobs(PROBE) == list(truth.probe_logprobs)
    again = reader.snapshot(1)
    assert dict(reader.truth(*again, PROBE).checksums) == dict(truth.checksums)
    after = parameters(learner)
    assert all(torch.equal(value, after[name]) for name, value in before.items()), "merging left no trace"
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert not any("lora" in name for name, _ in loaded.named_parameters())


@pytest.mark.usefixtures("group")
def test_a_perturbation_shows_in_the_merged_weights_and_is_taken_back(model: str, tmp_path: Path) -> None:
    learner = make(model)
    learner.step(random_batch())
    before, probe = learner.snapshot(1)[1], learner.probe_logprobs(PROBE)
    learner.perturb(seed=3, scale=0.1)
    assert max(abs(a - b) for a, b in zip(learner.probe_logprobs(PROBE), probe, strict=True)) > 0.01
    assert not torch.equal(learner.snapshot(2)[1]["model.embed_tokens.weight"], before["model.embed_tokens.weight"])
    learner.save(tmp_path / "perturbed", tokenizer())
    reader = make(str(tmp_path / "perturbed"), lora=None)
    assert learner.probe_logprobs(PROBE) == reader.probe_logprobs(PROBE), "nothing gathered before is still in use"
    learner.restore()
    assert learner.probe_logprobs(PROBE) == probe
    assert all(torch.equal(value, before[name]) for name, value in learner.snapshot(3)[1].items())


@pytest.mark.usefixtures("group")
def test_a_resumed_run_equals_an_uninterrupted_one(model: str, tmp_path: Path) -> None:
    straight, first, second = make(model), make(model), make(model)
    for seed in range(3):
        straight.step(random_batch(seed=seed))
    for seed in range(2):
        first.step(random_batch(seed=seed))
    first.save_checkpoint(tmp_path / "checkpoint")
    second.load_checkpoint(tmp_path / "checkpoint")
    second.step(random_batch(seed=2))
    assert all(torch.equal(value, parameters(second)[name]) for name, value in parameters(straight).items())


@pytest.mark.usefixtures("group")
def test_adapters_over_another_base_are_refused_in_one_line(model: str, tmp_path: Path) -> None:
    """Of the same shape: nothing else in the checkpoint would tell."""
    make(model).save_checkpoint(tmp_path / "checkpoint")
    tiny_model(seed=5).save_pretrained(tmp_path / "other")
    with pytest.raises(CheckpointError, match="were trained over another base") as caught:
        make(str(tmp_path / "other")).load_checkpoint(tmp_path / "checkpoint")
    assert "\n" not in str(caught.value)


KL = {"terms": [{"name": "kl_k2", "weight": 0.5}]}


@pytest.mark.usefixtures("group")
def test_a_fixed_reference_is_the_policy_without_its_adapters(model: str) -> None:
    shared = make(model, algorithm=KL)
    assert isinstance(shared._companions["reference"], WithoutAdapters)
    # The same checkpoint by its name is a copy of its own.
    copied = make(model, algorithm={**KL, "reference": {"model": model}})
    assert not isinstance(copied._companions["reference"], WithoutAdapters)
    for seed in range(3):
        batch = random_batch(seed=seed)
        mine, theirs = shared.step(batch), copied.step(batch)
        assert mine["term/kl_k2"] == pytest.approx(theirs["term/kl_k2"], rel=1e-5, abs=1e-9)
    assert mine["term/kl_k2"] > 1e-3
    for name, value in parameters(copied).items():
        torch.testing.assert_close(value, parameters(shared)[name], atol=1e-5, rtol=0)


@pytest.mark.usefixtures("group")
def test_a_moving_reference_follows_the_merged_weights(model: str) -> None:
    learner = make(model, algorithm={**KL, "reference": {"kind": "moving", "decay": 0.5}})
    expected = learner.snapshot(0)[1]
    for seed in range(2):
        learner.step(random_batch(seed=seed))
        now = learner.snapshot(0)[1]
        expected = {name: 0.5 * value + 0.5 * now[name] for name, value in expected.items()}
    companion = learner._companions["reference"]
    for name, value in companion.state().items():
        torch.testing.assert_close(local_shard(value), expected[name], atol=1e-6, rtol=0)


def train(rank: int, ranks: int, model: str) -> dict[str, object]:
    learner = make(model, rank, ranks, learning_rate=1e-3, algorithm=KL)
    metrics = [learner.step(random_batch(seed=seed)) for seed in range(2)]
    manifest, tensors = learner.snapshot(1)
    truth = learner.truth(manifest, tensors, PROBE)
    return {
        "metrics": [{k: v for k, v in entry.items() if k != "seconds"} for entry in metrics],
        "tensors": tensors,
        "probe": truth.probe_logprobs,
    }


def test_two_ranks_train_the_adapters_of_one(model: str, tmp_path: Path) -> None:
    """A has five rows, of which one rank holds three."""
    with single_rank():
        alone = train(0, 1, model)
    first, second = run_ranks(2, train, model, folder=tmp_path / "ranks")
    assert first["metrics"] == second["metrics"]
    for mine, theirs in zip(first["metrics"], alone["metrics"], strict=True):  # type: ignore[call-overload]
        assert mine == pytest.approx(theirs, rel=1e-3, abs=1e-5)
    for name, value in alone["tensors"].items():  # type: ignore[attr-defined]
        torch.testing.assert_close(first["tensors"][name], value, atol=2e-5, rtol=0)
    assert first["probe"] == pytest.approx(alone["probe"], abs=1e-4)


def test_without_names_every_layer_but_the_head_gets_an_adapter() -> None:
    found = find_targets(tiny_model(tied=False), None)
    assert len(found) == 2 * 7
    assert not any("lm_head" in name for name in found)
    assert len(find_targets(tiny_model(), ATTENTION)) == 2 * 2
    assert find_targets(tiny_model(), ("layers.1.mlp.up_proj",)) == ["model.layers.1.mlp.up_proj"]


@pytest.mark.parametrize("wanted", ["query", "lm_head", "embed_tokens", "proj"])
def test_a_layer_that_is_not_there_is_one_line(wanted: str) -> None:
    with pytest.raises(UnfitError, match=r"trainer\.lora\.target_modules: no linear layer") as caught:
        find_targets(tiny_model(tied=False), ("q_proj", wanted))
    assert "\n" not in str(caught.value)
    assert "there are down_proj, gate_proj, k_proj" in str(caught.value)


def test_chosen_layers_alone_are_adapted(model: str) -> None:
    policy = load_policy(model)
    before = token_logprobs(policy, pack([PROBE])).tolist()
    adapters = Adapters(policy, LoraSettings(rank=2, target_modules=ATTENTION))
    assert len(adapters.own()) == 2 * 2 * 2
    assert token_logprobs(policy, pack([PROBE])).tolist() == before


def test_the_first_values_come_from_the_seed_alone(model: str) -> None:
    torch.manual_seed(1)
    one = Adapters(load_policy(model), LoraSettings()).own()
    noise = torch.rand(1)
    other = Adapters(load_policy(model), LoraSettings()).own()
    torch.manual_seed(1)
    assert torch.equal(noise, torch.rand(1)), "nobody else's random numbers are used up"
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    third = Adapters(load_policy(model), LoraSettings(seed=1)).own()
    assert not all(torch.equal(value, third[name]) for name, value in one.items())
