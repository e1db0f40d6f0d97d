"""A batch that arrives in parts trains like the batch, and a step that is half done says so."""

import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from learners.batch import TrainBatch, TrainSequence
from learners.learner import Learner
from learners.settings import TrainerSettings
from tests.learners.ranks import run_ranks, single_rank
from tests.learners.tiny import make_learner, random_batch, tokenizer

AGGREGATIONS = ("token", "sequence")
Parts = list[tuple[TrainSequence, ...]]


def make(model: str, rank: int = 0, ranks: int = 1, aggregation: str = "token", **trainer: object) -> Learner:
    return make_learner(model, {"aggregation": aggregation}, rank, ranks, **trainer)


def masked(item: TrainSequence) -> TrainSequence:
    return replace(item, loss_mask=(False,) * len(item.loss_mask))


def cuts(items: tuple[TrainSequence, ...]) -> list[Parts]:
    """All at once; one by one; unevenly, with a part that is empty and one without a token that takes loss."""
    return [
        [items],
        [(item,) for item in items],
        [items[:1], (), items[1:8], (masked(items[0]), masked(items[5])), items[8:]],
    ]


def streamed(learner: Learner, parts: Parts) -> dict[str, float]:
    learner.begin_step(3)
    for part in parts:
        learner.add(part)
    return learner.finish_step()


def train(rank: int, ranks: int, model: str, cut: int | None) -> dict[str, tuple[dict[str, torch.Tensor], object]]:
    """Two steps for each aggregation, whole or cut: the weights, and the metrics of each step."""
    outcome: dict[str, tuple[dict[str, torch.Tensor], object]] = {}
    for aggregation in AGGREGATIONS:
        learner = make(model, rank, ranks, aggregation, max_grad_norm=0.5)
        metrics = []
        for seed in range(2):
            batch = random_batch(seed=seed)
            if cut is None:
                metrics.append(learner.step(batch))
            else:
                metrics.append(streamed(learner, cuts(batch.sequences)[cut]))
        outcome[aggregation] = learner.snapshot(2)[1], metrics
    return outcome


def assert_same_training(one: object, other: object) -> None:
    for aggregation in AGGREGATIONS:
        (state, metrics), (other_state, other_metrics) = one[aggregation], other[aggregation]  # type: ignore[index]
        for name, value in other_state.items():
            # Two updates of 1e-3 each: a part that went missing or was scaled otherwise shows at that scale.
            torch.testing.assert_close(state[name], value, atol=2e-5, rtol=0)
        for mine, theirs in zip(metrics, other_metrics, strict=True):
            assert mine.keys() == theirs.keys()
            # Read, not trained: the third cut adds two masked sequences to the batch.
            for name in mine.keys() - {"seconds", "tokens"}:
                assert mine[name] == pytest.approx(theirs[name], rel=1e-4, abs=1e-6), name


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("cut", [0, 1, 2])
def test_a_batch_in_parts_trains_like_the_whole_batch(model: str, cut: int) -> None:
    assert_same_training(train(0, 1, model, cut), train(0, 1, model, None))


def train_all(rank: int, ranks: int, model: str) -> list[object]:
    return [train(rank, ranks, model, cut) for cut in (1, 2)]


def test_two_ranks_train_parts_like_one_rank_the_whole_batch(model: str, tmp_path: Path) -> None:
    """Parts of one sequence leave a rank with an empty row."""
    with single_rank():
        whole = train(0, 1, model, None)
    together = run_ranks(2, train_all, model, folder=tmp_path)
    for outcome in together[0]:
        assert_same_training(outcome, whole)
    for mine, theirs in zip(*together, strict=True):
        for aggregation in AGGREGATIONS:
            for one, other in zip(mine[aggregation][1], theirs[aggregation][1], strict=True):
                assert {**one, "seconds": 0} == {**other, "seconds": 0}


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_masked_sequences_count_for_nothing(model: str, aggregation: str) -> None:
    """Late answers that only serve their group's baseline: the same weights to the bit as without them."""
    batch = random_batch()
    late = tuple(masked(item) for item in random_batch(seed=1).sequences)
    states, metrics = [], []
    for items in (batch.sequences, batch.sequences[:4] + late + batch.sequences[4:]):
        learner = make(model, aggregation=aggregation)
        metrics.append(learner.step(TrainBatch(3, items)))
        states.append(learner.snapshot(1)[1])
    for name, value in states[0].items():
        assert torch.equal(states[1][name], value), name
    assert metrics[0]["trained_tokens"] == metrics[1]["trained_tokens"] == batch.loss_tokens
    assert metrics[0]["loss"] == metrics[1]["loss"]


@pytest.mark.usefixtures("group")
def test_seconds_count_the_work_and_not_the_waits_between_the_parts(model: str) -> None:
    learner = make(model)
    learner.begin_step(3)
    working = 0.0
    for item in random_batch(sequences=6).sequences:
        started = time.perf_counter()
        learner.add((item,))
        working += time.perf_counter() - started
        time.sleep(0.02)
    started = time.perf_counter()
    metrics = learner.finish_step()
    finishing = time.perf_counter() - started
    assert 0.5 * working < metrics["seconds"] <= working + finishing


@pytest.mark.usefixtures("group")
def test_tokens_count_all_that_was_read(model: str) -> None:
    batch = random_batch(sequences=4)
    metrics = streamed(make(model), [batch.sequences[:2], (masked(batch.sequences[3]), *batch.sequences[2:])])
    assert metrics["tokens"] == batch.tokens + len(batch.sequences[3])


@pytest.mark.usefixtures("group")
def test_a_batch_without_a_loss_token_is_an_error_that_can_be_mended(model: str) -> None:
    learner = make(model)
    batch = random_batch(sequences=3)
    learner.begin_step(3)
    learner.add((masked(batch.sequences[0]),))
    with pytest.raises(ValueError, match="nothing to train on"):
        learner.finish_step()
    learner.add(batch.sequences)
    assert learner.finish_step()["trained_tokens"] == batch.loss_tokens


@pytest.mark.usefixtures("group")
def test_a_step_out_of_order_is_refused(model: str) -> None:
    learner = make(model)
    batch = random_batch(sequences=2)
    for call in (lambda: learner.add(batch.sequences), learner.finish_step, learner.abandon_step):
        with pytest.raises(RuntimeError, match=r"no step is half done: begin_step\(\) comes before"):
            call()
    learner.begin_step(3)
    with pytest.raises(RuntimeError, match=r"nothing was added to this step: add\(\) comes before"):
        learner.finish_step()
    learner.add(batch.sequences)
    with pytest.raises(RuntimeError, match=r"half done: finish_step\(\) .* before another step"):
        learner.begin_step(3)
    learner.finish_step()
    assert learner.steps == 1


@pytest.mark.usefixtures("group")
def test_nothing_leaves_or_replaces_the_weights_while_a_step_is_half_done(model: str, tmp_path: Path) -> None:
    learner = make(model)
    learner.begin_step(3)
    refused = {
        "a snapshot": lambda: learner.snapshot(1),
        "a training step": lambda: learner.step(random_batch()),
        "a perturbation": lambda: learner.perturb(seed=1, scale=0.1),
        "an export": lambda: learner.save(tmp_path / "export", tokenizer()),
        "a checkpoint": lambda: learner.save_checkpoint(tmp_path / "checkpoint"),
        "loading a checkpoint": lambda: learner.load_checkpoint(tmp_path / "checkpoint"),
    }
    for what, call in refused.items():
        with pytest.raises(RuntimeError, match=f"half done: .* before {what}$"):
            call()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("group")
def test_an_abandoned_step_leaves_no_trace(model: str) -> None:
    batch, other = random_batch(seed=0), random_batch(seed=1)
    straight, broken = make(model, warmup_steps=4), make(model, warmup_steps=4)
    broken.begin_step(3)
    broken.add(other.sequences)
    broken.abandon_step()
    assert straight.step(batch)["loss"] == broken.step(batch)["loss"]
    expected = straight.snapshot(1)[1]
    for name, value in broken.snapshot(1)[1].items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.usefixtures("group")
def test_a_sequence_beyond_the_token_budget_adds_nothing(model: str) -> None:
    learner = make(model, token_budget=60)
    batch = random_batch()
    long = replace(random_batch(sequences=1).sequences[0], prompt_ids=(1,) * 60)
    learner.begin_step(3)
    learner.add(batch.sequences)
    with pytest.raises(ValueError, match="raise the budget"):
        learner.add((batch.sequences[0], long))
    assert learner.finish_step()["trained_tokens"] == batch.loss_tokens


@pytest.mark.usefixtures("group")
def test_streaming_is_for_one_minibatch_and_unperturbed_weights(model: str) -> None:
    with pytest.raises(RuntimeError, match=r"trainer\.minibatches is 2"):
        make(model, minibatches=2).begin_step(0)
    with pytest.raises(ValueError, match=r"stream=true .* minibatches=2"):
        TrainerSettings(stream=True, minibatches=2)
    learner = make(model)
    learner.perturb(seed=1, scale=0.1)
    with pytest.raises(RuntimeError, match="restore them before"):
        learner.begin_step(0)


@pytest.mark.usefixtures("group")
def test_an_answer_of_several_versions_is_corrected_token_by_token(model: str) -> None:
    """Each token is weighed against the very weights that sampled it."""
    learner = make(model, learning_rate=1e-2)
    prompt, response = (1, 2, 3), (4, 9, 2, 30, 7, 11)
    # [version][token] what each version would have given: the engine is exact here.
    logprobs = [learner.probe_logprobs(prompt + response)[2:]]
    for seed in range(2):
        learner.step(random_batch(seed=seed))
        logprobs.append(learner.probe_logprobs(prompt + response)[2:])
    versions = (0, 0, 1, 1, 1, 2)
    item = TrainSequence(
        sequence_id="a",
        prompt_ids=prompt,
        response_ids=response,
        behaviour_logprobs=tuple(logprobs[version][place] for place, version in enumerate(versions)),
        versions=versions,
        advantages=(1.0,) * 6,
        loss_mask=(True,) * 6,
    )
    gaps = torch.tensor([logprobs[2][place] - logprobs[version][place] for place, version in enumerate(versions)])
    assert gaps[:5].abs().min() > 1e-3
    metrics = learner.step(TrainBatch(2, (item,)))
    weights = gaps.exp().clamp(max=2.0)
    assert metrics["correction_weight_mean"] == pytest.approx(weights.mean().item(), rel=1e-4)
    assert metrics["correction_ess"] == pytest.approx((weights.sum() ** 2 / (6 * (weights**2).sum())).item(), rel=1e-4)
    assert metrics["policy_gap_stale"] == pytest.approx(gaps[:5].abs().mean().item(), rel=1e-4)
    assert metrics["engine_gap"] == pytest.approx(0.0, abs=1e-5)
    assert metrics["staleness_mean"] == pytest.approx((2 + 2 + 1 + 1 + 1 + 0) / 6)
    assert (metrics["staleness_max"], metrics["stale_fraction"]) == (2, pytest.approx(5 / 6))
