"""Parts of the learner that meet: each pair of them computes what it computes by itself."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from learners.learner import Learner
from tests.learners.gradient_sums import assert_same_gradients, gradient_sums
from tests.learners.ranks import run_ranks, single_rank
from tests.learners.tiny import make_learner, random_batch, write_model

Settings = dict[str, object]
Outcome = dict[str, object]
MOMENTS: Settings = {"surrogate": "rover", "old_logprobs": "recompute"}
SEVERAL_TERMS: Settings = {
    "terms": [
        {"name": "kl_k2", "weight": 0.3},
        {"name": "kl_k3", "weight": 0.1},
        {"name": "entropy_band", "weight": 0.2, "options": {"low": 2.0, "high": 3.0}},
    ]
}
LORA: Settings = {"lora": {"rank": 3}}


def make(rank: int, ranks: int, model: str, algorithm: Settings, **trainer: object) -> Learner:
    return make_learner(model, algorithm, rank, ranks, temperature=0.9, **trainer)


def begin_again(rank: int, ranks: int, model: str, trainer: Settings) -> dict[str, list[dict[str, Tensor]]]:
    """Weights at the start, after two steps, after a start anew, and of one step from there; the last also of a learner
    that has never trained."""
    learner = make(rank, ranks, model, {}, **trainer)
    seen = [learner.snapshot(0)[1]]
    for seed in range(2):
        learner.step(random_batch(seed=seed))
    seen.append(learner.snapshot(1)[1])
    learner.start_anew()
    assert learner.steps == 0
    seen.append(learner.snapshot(2)[1])
    learner.step(random_batch(seed=7))
    seen.append(learner.snapshot(3)[1])
    fresh = make(rank, ranks, model, {}, **trainer)
    fresh.step(random_batch(seed=7))
    return {"seen": seen, "fresh": [fresh.snapshot(0)[1]]}


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("stage", [2, 3])
def test_a_start_anew_over_zero_brings_back_weights_and_optimizer(tmp_path: Path, stage: int, ranks: int) -> None:
    model = write_model(tmp_path / "model")
    trainer: Settings = {"backend": "deepspeed", "zero_stage": stage}
    outcome = run_ranks(ranks, begin_again, model, trainer, folder=tmp_path / "ranks")[0]
    start, trained, again, stepped = outcome["seen"]
    assert any(not torch.equal(value, start[name]) for name, value in trained.items())
    assert all(torch.equal(value, start[name]) for name, value in again.items())
    (fresh,) = outcome["fresh"]
    assert all(torch.equal(value, fresh[name]) for name, value in stepped.items())


def train(rank: int, ranks: int, model: str, algorithm: Settings, trainer: Settings) -> Outcome:
    learner = make(rank, ranks, model, algorithm, **trainer)
    learner.step(random_batch(seed=5))  # adapters have no gradient everywhere before
    whole = learner._trainer.minibatches == 1
    sums = gradient_sums(learner, random_batch(seed=0).sequences) if whole else {}
    metrics = [learner.step(random_batch(seed=seed)) for seed in range(2)]
    return {
        "gradients": sums,
        "metrics": [{name: value for name, value in row.items() if name != "seconds"} for row in metrics],
    }


@pytest.mark.parametrize(
    ("algorithm", "trainer"),
    [
        pytest.param(MOMENTS, {}, id="moments"),
        pytest.param(MOMENTS, {"minibatches": 2}, id="moments of two times"),
        pytest.param(MOMENTS, LORA, id="moments over adapters"),
        pytest.param(SEVERAL_TERMS, LORA, id="terms over adapters"),
        pytest.param({**SEVERAL_TERMS, "reference": {"kind": "moving", "decay": 0.5}}, LORA, id="a moving reference"),
    ],
)
def test_ranks_that_share_rows_compute_it_as_one_rank(tmp_path: Path, algorithm: Settings, trainer: Settings) -> None:
    model = write_model(tmp_path / "model")
    with single_rank():
        alone = train(0, 1, model, algorithm, trainer)
    together = run_ranks(2, train, model, algorithm, {**trainer, "sequence_parallel": 2}, folder=tmp_path / "ranks")
    assert together[0]["metrics"] == together[1]["metrics"], "ranks must agree to the bit"
    assert_same_gradients(together[0]["gradients"], alone["gradients"], 2e-5)
    for mine, theirs in zip(together[0]["metrics"], alone["metrics"], strict=True):  # type: ignore[call-overload]
        assert mine == pytest.approx(theirs, rel=1e-3, abs=1e-5)
