"""The learner on one rank: what a step computes, and that cutting it differently changes nothing."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from learners.batch import TrainBatch, TrainSequence
from learners.learner import Learner
from learners.packing import pack
from learners.policy import token_logprobs
from learners.settings import AlgorithmSettings, CorrectionSettings, TrainerSettings
from tests.learners.ranks import CPU
from tests.learners.tiny import VOCABULARY, grouped_batch, random_batch, tiny_model, tokenizer, write_model

PROBE = list(range(1, VOCABULARY, 3))


pytestmark = pytest.mark.usefixtures("group")


def make(
    model: str, algorithm: AlgorithmSettings | None = None, temperature: float = 1.0, **trainer: object
) -> Learner:
    settings = TrainerSettings.model_validate({"dtype": "float32", "learning_rate": 1e-2, **trainer})
    return Learner(
        model,
        algorithm or AlgorithmSettings(),
        settings,
        temperature=temperature,
        rank=0,
        world_size=1,
        device=CPU,
    )


def weights(learner: Learner) -> dict[str, torch.Tensor]:
    return learner.snapshot(0)[1]


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], atol: float) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], atol=atol, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


def assert_identical(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_step_is_adamw_on_the_written_out_objective(model: str) -> None:
    """Against a reference written from the formulas: no packing, no FSDP, no chunks."""
    batch = random_batch(version=3)
    algorithm = AlgorithmSettings(old_logprobs="behaviour", correction=CorrectionSettings(mode="off"))
    learner = make(model, algorithm, temperature=0.8, max_grad_norm=0.5)
    metrics = learner.step(batch)

    reference = tiny_model()
    optimizer = torch.optim.AdamW(reference.parameters(), lr=1e-2, betas=(0.9, 0.95), weight_decay=0.0)
    total = torch.zeros(())
    count = 0
    for item in batch.sequences:
        ids = torch.tensor([item.prompt_ids + item.response_ids])
        table = (reference(input_ids=ids).logits[0, :-1] / 0.8).log_softmax(-1)
        logprobs = table.gather(-1, ids[0, 1:, None]).squeeze(-1)[len(item.prompt_ids) - 1 :]
        mask = torch.tensor(item.loss_mask)
        ratio = (logprobs - torch.tensor(item.behaviour_logprobs)).exp()
        advantage = torch.tensor(item.advantages)
        gain = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.28) * advantage)
        total = total - (gain * mask).sum()
        count += int(mask.sum())
    loss = total / count
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(reference.parameters(), 0.5)
    optimizer.step()

    assert metrics["loss"] == pytest.approx(loss.item(), rel=1e-4)
    assert metrics["grad_norm"] == pytest.approx(norm.item(), rel=1e-4)
    assert metrics["trained_tokens"] == count
    expected = {name: value.detach() for name, value in reference.named_parameters()}
    # AdamW's first step is lr x sign(gradient): where a gradient is nearly 0, rounding decides its sign.
    far = [((value - expected[name]).abs() > 1e-4).float().mean().item() for name, value in weights(learner).items()]
    assert max(far) < 0.01


@pytest.mark.parametrize("minibatches", [1, 3])
@pytest.mark.parametrize("aggregation", ["token", "sequence"])
@pytest.mark.parametrize("level", ["token", "geometric"])
def test_the_token_budget_changes_nothing(model: str, minibatches: int, aggregation: str, level: str) -> None:
    algorithm = AlgorithmSettings.model_validate({"aggregation": aggregation, "correction": {"level": level}})
    results = []
    for budget in (40, 100, 10_000):
        learner = make(model, algorithm, token_budget=budget, minibatches=minibatches, learning_rate=1e-3)
        metrics = [learner.step(random_batch(seed=seed)) for seed in range(2)]
        results.append((weights(learner), metrics))
    for state, metrics in results[:-1]:
        assert_same(state, results[-1][0], atol=2e-5)
        for mine, theirs in zip(metrics, results[-1][1], strict=True):
            for name in mine.keys() - {"seconds"}:
                assert mine[name] == pytest.approx(theirs[name], rel=1e-3, abs=1e-5), name


@pytest.mark.parametrize("surrogate", ["trpa", "rover"])
@pytest.mark.parametrize("minibatches", [1, 2])
def test_the_token_budget_changes_nothing_where_a_loss_needs_more_than_its_token(
    model: str, surrogate: str, minibatches: int
) -> None:
    """TRPA needs the other answers of a group, ROVER the next token's distribution now and at the start."""
    algorithm = AlgorithmSettings.model_validate({"surrogate": surrogate, "aggregation": "sequence"})
    results = []
    for budget in (130, 10_000):
        learner = make(model, algorithm, token_budget=budget, minibatches=minibatches, learning_rate=1e-3)
        metrics = [learner.step(grouped_batch(seed=seed)) for seed in range(2)]
        results.append((weights(learner), metrics))
    assert_same(results[0][0], results[1][0], atol=2e-5)
    for mine, theirs in zip(results[0][1], results[1][1], strict=True):
        assert mine["grad_norm"] > 0
        for name in mine.keys() - {"seconds"}:
            assert mine[name] == pytest.approx(theirs[name], rel=1e-3, abs=1e-5), name


def test_masks_multiply_and_leave_the_divisor_alone(model: str) -> None:
    """A mask of 1 / share on all tokens is a learning signal as many times as large, whatever the second one does."""
    keep = {"name": "random_tokens", "options": {"share": 1.0}}
    certain = {"name": "unlikely_tokens", "options": {"below": 1e-6}}
    plain, kept, none = (
        make(model, AlgorithmSettings.model_validate({"masks": masks})).step(random_batch())
        for masks in ([], [keep], [keep, certain])
    )
    assert kept["loss"] == pytest.approx(plain["loss"])
    assert kept["mask/random_tokens"] == 1.0
    assert none["mask/unlikely_tokens"] == 0.0
    assert (none["loss"], none["grad_norm"], none["trained_tokens"]) == (0.0, 0.0, plain["trained_tokens"])


def test_an_answer_with_positive_advantage_becomes_likelier(model: str) -> None:
    learner = make(model, learning_rate=1e-3)
    item = random_batch(sequences=1).sequences[0]
    length = len(item.response_ids)
    item = replace(item, loss_mask=(True,) * length, advantages=(1.0,) * length)
    ids = item.prompt_ids + item.response_ids
    before = learner.probe_logprobs(ids)[len(item.prompt_ids) - 1 :]
    for _ in range(3):
        learner.step(TrainBatch(3, (item,)))
    after = learner.probe_logprobs(ids)[len(item.prompt_ids) - 1 :]
    assert sum(after) > sum(before) + 0.1


def test_tied_embeddings_train_through_both_ends(model: str) -> None:
    """A token that occurs in no input still moves: the tied head gives its row a gradient."""
    learner = make(model)
    before = weights(learner)
    assert "lm_head.weight" not in before
    item = TrainSequence("a", (1, 2), (3, 4), (-2.0, -2.0), (3, 3), (1.0, 1.0), (True, True))
    learner.step(TrainBatch(3, (item,)))
    moved = (weights(learner)["model.embed_tokens.weight"] - before["model.embed_tokens.weight"]).abs().sum(-1)
    assert (moved > 0).all()


def test_recompute_equals_behaviour_where_the_engine_is_exact(model: str) -> None:
    batch = random_batch()
    reference = tiny_model()
    reference.set_attn_implementation("paceline_packed")
    exact = []
    for item in batch.sequences:
        values = token_logprobs(reference, pack([item.prompt_ids + item.response_ids])).tolist()
        exact.append(
            replace(
                item, behaviour_logprobs=tuple(values[len(item.prompt_ids) - 1 :]), versions=(3,) * len(item.versions)
            )
        )
    batch = TrainBatch(3, tuple(exact))
    states = []
    for old in ("behaviour", "recompute"):
        learner = make(
            model, AlgorithmSettings.model_validate({"old_logprobs": old}), minibatches=2, learning_rate=1e-3
        )
        metrics = learner.step(batch)
        assert metrics["engine_gap"] < 1e-5
        assert metrics["correction_weight_mean"] == pytest.approx(1.0, abs=1e-5)
        states.append(weights(learner))
    assert_same(states[0], states[1], atol=2e-5)


def test_the_gap_counts_tokens_of_the_current_version_alone(model: str) -> None:
    learner = make(model)
    ids = (1, 2, 3, 4, 5)
    exact = learner.probe_logprobs(ids)[1:]
    item = TrainSequence(
        sequence_id="a",
        prompt_ids=ids[:2],
        response_ids=ids[2:],
        behaviour_logprobs=(exact[0] + 0.5, exact[1] - 0.1, exact[2] + 7.0),
        versions=(3, 3, 1),
        advantages=(1.0,) * 3,
        loss_mask=(True,) * 3,
    )
    metrics = learner.step(TrainBatch(3, (item,)))
    assert metrics["engine_gap"] == pytest.approx(0.3, abs=1e-5)
    assert metrics["engine_gap_max"] == pytest.approx(0.5, abs=1e-5)
    # k3 of d = -0.5 and 0.1: (exp(d) - 1 - d) / 2
    assert metrics["engine_gap_kl"] == pytest.approx((0.1065307 + 0.0051709) / 2, rel=1e-3)
    assert metrics["staleness_mean"] == pytest.approx(2 / 3)
    assert metrics["staleness_max"] == 2


@pytest.mark.parametrize("minibatches", [1, 2])
def test_warm_up_counts_training_steps_and_not_their_updates(model: str, minibatches: int) -> None:
    learner = make(model, warmup_steps=4, minibatches=minibatches)
    rates = [learner.step(random_batch(sequences=2, seed=seed))["learning_rate"] for seed in range(6)]
    assert rates == pytest.approx([0.25e-2, 0.5e-2, 0.75e-2, 1e-2, 1e-2, 1e-2])


def test_an_update_that_is_not_finite_is_left_out_and_reported(model: str) -> None:
    learner = make(model)
    before = weights(learner)
    poisoned = replace(
        random_batch().sequences[0], advantages=(float("nan"),) * len(random_batch().sequences[0].response_ids)
    )
    metrics = learner.step(TrainBatch(3, (poisoned,)))
    assert metrics["skipped_updates"] == 1
    assert_identical(weights(learner), before)
    assert learner.step(random_batch())["skipped_updates"] == 0


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_snapshot_loads_into_transformers_with_equal_logits(tmp_path: Path, tied: bool, dtype: str) -> None:
    learner = make(write_model(tmp_path / "model", tied=tied), dtype=dtype)
    learner.step(random_batch())
    manifest, tensors = learner.snapshot(version=7)
    assert manifest.version == 7
    assert [spec.name for spec in manifest.tensors] == list(tensors)
    for spec in manifest.tensors:
        assert (spec.shape, spec.dtype) == (tuple(tensors[spec.name].shape), dtype)
    assert ("lm_head.weight" in tensors) is not tied

    fresh = tiny_model(tied=tied, seed=99).to(getattr(torch, dtype))
    missing = fresh.load_state_dict(tensors, strict=False)
    assert missing.unexpected_keys == []
    assert missing.missing_keys == (["lm_head.weight"] if tied else [])
    logits = fresh(input_ids=torch.tensor([PROBE])).logits[0, :-1].float()
    expected = logits.log_softmax(-1).gather(-1, torch.tensor(PROBE)[1:, None]).squeeze(-1)
    tolerance = 1e-5 if dtype == "float32" else 0.1
    assert learner.probe_logprobs(PROBE) == pytest.approx(expected.tolist(), abs=tolerance)


def test_a_snapshot_does_not_follow_the_training(model: str) -> None:
    learner = make(model)
    _, tensors = learner.snapshot(0)
    before = {name: value.clone() for name, value in tensors.items()}
    learner.step(random_batch())
    assert_identical(tensors, before)


def test_truth_tells_an_altered_tensor_and_an_altered_policy(model: str) -> None:
    learner = make(model)
    manifest, tensors = learner.snapshot(1)
    truth = learner.truth(manifest, tensors, PROBE)
    assert truth.probe_logprobs == learner.probe_logprobs(PROBE)
    learner.step(random_batch())
    other_manifest, other = learner.snapshot(2)
    later = learner.truth(other_manifest, other, PROBE)
    assert all(truth.checksums[name] != later.checksums[name] for name in truth.checksums)
    assert max(abs(a - b) for a, b in zip(truth.probe_logprobs, later.probe_logprobs, strict=True)) > 0.01


def test_perturbation_is_visible_known_and_taken_back_to_the_bit(model: str) -> None:
    learner = make(model)
    learner.step(random_batch())
    before, probe = weights(learner), learner.probe_logprobs(PROBE)
    learner.perturb(seed=5, scale=0.1)
    changed = weights(learner)
    for name, value in before.items():
        if value.ndim < 2:
            assert torch.equal(changed[name], value)
        else:
            size = (changed[name] - value).std() / value.std()
            assert size.item() == pytest.approx(0.1, rel=0.1), name
    assert max(abs(a - b) for a, b in zip(learner.probe_logprobs(PROBE), probe, strict=True)) > 0.01
    with pytest.raises(RuntimeError, match="restore them before"):
        learner.step(random_batch())
    with pytest.raises(RuntimeError, match="perturbed already"):
        learner.perturb(seed=5, scale=0.1)
    learner.restore()
    assert_identical(weights(learner), before)
    assert learner.probe_logprobs(PROBE) == probe
    learner.perturb(seed=5, scale=0.1)
    assert_identical(weights(learner), changed)
    learner.restore()
    with pytest.raises(RuntimeError, match="not perturbed"):
        learner.restore()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_resumed_run_equals_an_uninterrupted_one(model: str, tmp_path: Path, dtype: str) -> None:
    batches = [random_batch(seed=seed) for seed in range(4)]
    straight = make(model, dtype=dtype, warmup_steps=3)
    for batch in batches:
        straight.step(batch)

    first = make(model, dtype=dtype, warmup_steps=3)
    for batch in batches[:2]:
        first.step(batch)
    first.save_checkpoint(tmp_path / "runs" / "step_2")
    second = make(model, dtype=dtype, warmup_steps=3)
    second.load_checkpoint(tmp_path / "runs" / "step_2")
    assert second.steps == 2
    for batch in batches[2:]:
        second.step(batch)
    assert_identical(weights(second), weights(straight))
    assert [entry.name for entry in (tmp_path / "runs").iterdir()] == ["step_2"]


def test_saved_model_loads_with_equal_weights(model: str, tmp_path: Path) -> None:
    learner = make(model, dtype="bfloat16")
    learner.step(random_batch())
    learner.save(tmp_path / "out", tokenizer())
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert loaded.dtype == torch.bfloat16
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    state = dict(loaded.named_parameters())
    assert_identical(weights(learner), {name: value.detach() for name, value in state.items()})
