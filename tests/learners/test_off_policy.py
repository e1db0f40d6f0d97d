"""Tokens that another than the policy wrote: their rules by hand, and their way through the objective."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from learners.batch import TrainBatch, TrainSequence
from learners.learner import Learner
from learners.objective import ObjectiveInput, objective
from learners.off_policy import OFF_POLICY, OffPolicyInput, importance, likelihood, shaped
from learners.options import options_of
from learners.settings import AlgorithmSettings, TrainerSettings
from tests.learners.ranks import CPU, single_rank
from tests.learners.tiny import random_batch, write_model

NAN = float("nan")


@pytest.fixture
def group() -> Iterator[None]:
    with single_rank():
        yield


def given(probabilities: list[float], advantages: list[float], behaviour: list[float] | None = None) -> OffPolicyInput:
    return OffPolicyInput(
        torch.tensor(probabilities).log().requires_grad_(),
        torch.tensor(behaviour or [NAN] * len(probabilities)).log(),
        torch.tensor(advantages),
    )


def slopes(case: OffPolicyInput, loss: torch.Tensor) -> list[float]:
    loss.sum().backward()
    assert case.logprobs.grad is not None
    return [-slope for slope in case.logprobs.grad.tolist()]


def test_shaping_keeps_the_gradient_of_unlikely_tokens() -> None:
    case = given([0.1, 0.01, 0.9], [1.0, 1.0, -2.0])
    loss = shaped(case)
    assert loss.tolist() == pytest.approx([-0.5, -0.01 / 0.11, 2 * 0.9])
    # gamma p / (p + gamma)^2: greatest, 1/4, at p = gamma.
    assert slopes(case, loss) == pytest.approx([0.25, 0.1 * 0.01 / 0.11**2, -2 * 0.1 * 0.9 / 1.0], rel=1e-5)
    with pytest.raises(ValueError, match="gamma=0"):
        shaped(case, gamma=0)


def test_likelihood_and_importance_by_hand() -> None:
    case = given([0.2, 0.2], [1.0, -1.0])
    assert slopes(case, likelihood(case)) == pytest.approx([1.0, -1.0])
    known = given([0.2, 0.2], [1.0, -1.0], behaviour=[0.4, 0.01])
    assert slopes(known, importance(known)) == pytest.approx([0.5, -2.0])


@pytest.mark.parametrize("name", OFF_POLICY.names())
def test_every_rule_takes_no_token_and_says_where_it_is_from(name: str) -> None:
    assert OFF_POLICY[name](given([], [])).shape == (0,)
    doc = OFF_POLICY[name].__doc__ or ""
    assert "arXiv" in doc or "Williams 1992" in doc
    assert all(option in doc for option in options_of(OFF_POLICY[name]))


@pytest.mark.parametrize("old", ["behaviour", "recompute"])
def test_each_token_goes_by_its_own_rule(old: str) -> None:
    """Tokens 1 and 3 are foreign, without a behaviour logprob; the others have a ratio of 1.5, beyond the clip."""
    theta = torch.tensor([1.5, 0.1, 1.5, 0.3]).log() - torch.tensor([1.0, 0.0, 1.0, 0.0])
    theta.requires_grad_()
    before = torch.tensor([-1.0, NAN if old == "behaviour" else -1.0, -1.0, NAN if old == "behaviour" else -1.0])
    behaviour = torch.tensor([-1.0, NAN, -1.0, NAN])
    zeros = torch.zeros(4)
    case = ObjectiveInput(
        theta,
        zeros,
        before,
        behaviour,
        torch.tensor([1.0, 1.0, -1.0, -1.0]),
        torch.tensor([0, 0, 1, 1]),
        zeros,
        zeros,
        {},
        torch.zeros(4, dtype=torch.int64),
        torch.tensor([False, True, False, True]),
    )
    loss, seen = objective(case, AlgorithmSettings.model_validate({"old_logprobs": old}))
    loss.backward()
    assert theta.grad is not None
    # The clip lets nothing push up at 1.5, and lets push down; shaped tokens have gamma p / (p + gamma)^2.
    expected = [0.0, -0.25, 1.5, 0.1 * 0.3 / 0.4**2]
    assert theta.grad.tolist() == pytest.approx(expected, rel=1e-5)
    assert loss.item() == pytest.approx(-1.28 - 0.5 + 1.5 + 0.3 / 0.4, rel=1e-5)
    assert seen["ratio"].tolist() == pytest.approx([1.5, 1.5])


def foreign(sequence: TrainSequence) -> TrainSequence:
    length = len(sequence.response_ids)
    return replace(sequence, behaviour_logprobs=(NAN,) * length, off_policy=(True,) * length)


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("old", ["behaviour", "recompute"])
def test_a_learner_trains_on_a_foreign_answer_beside_its_own(tmp_path: Path, old: str) -> None:
    model = write_model(tmp_path / "model")
    batch = random_batch(sequences=4)
    other = foreign(batch.sequences[2])
    other = replace(other, advantages=(1.0,) * len(other.response_ids))
    mixed = TrainBatch(3, (*batch.sequences[:2], other, batch.sequences[3]))
    states = []
    for budget in (50, 10_000):
        learner = make(model, {"old_logprobs": old}, token_budget=budget)
        metrics = learner.step(mixed)
        assert metrics["skipped_updates"] == 0
        assert metrics["off_policy_fraction"] == pytest.approx(other.loss_tokens / mixed.loss_tokens)
        assert math.isfinite(metrics["engine_gap"])
        states.append(learner.probe_logprobs(other.prompt_ids + other.response_ids))
    assert states[0] == pytest.approx(states[1], abs=1e-4)


@pytest.mark.usefixtures("group")
def test_a_rule_that_needs_the_writers_logprobs_says_so(tmp_path: Path) -> None:
    learner = make(write_model(tmp_path / "model"), {"off_policy": "importance"})
    batch = TrainBatch(3, (foreign(random_batch(sequences=1).sequences[0]),))
    with pytest.raises(ValueError, match=r"off_policy=importance needs the logprobs of whoever wrote"):
        learner.step(batch)


@pytest.mark.usefixtures("group")
def test_a_tools_output_is_read_and_not_trained(tmp_path: Path) -> None:
    """Its tokens may have no behaviour logprob, whatever stands in their fields; the tokens behind them are conditioned
    on them."""
    model = write_model(tmp_path / "model")
    mask = (True, True, False, False, False, True)
    item = TrainSequence("a", (1, 2), (3, 4, 9, 8, 7, 5), (-1.0, -1.0, NAN, NAN, NAN, -1.0), (3,) * 6, (1.0,) * 6, mask)

    def trained(sequence: TrainSequence) -> tuple[dict[str, float], list[float]]:
        learner = make(model, {})
        metrics = learner.step(TrainBatch(3, (sequence,)))
        metrics.pop("seconds")
        return metrics, learner.probe_logprobs((1, 2, 3, 4, 9, 8, 7, 5))

    plain = trained(item)
    assert plain[0]["trained_tokens"] == 3
    assert all(math.isfinite(value) for value in plain[0].values())
    other = replace(
        item,
        behaviour_logprobs=(-1.0, -1.0, -0.1, -9.0, 0.0, -1.0),
        advantages=(1.0, 1.0, -7.0, NAN, 3.0, 1.0),
        versions=(3, 3, 0, 0, 0, 3),
    )
    assert trained(other) == plain
    elsewhere = trained(replace(item, response_ids=(3, 4, 9, 8, 6, 5)))
    assert elsewhere[0]["engine_gap"] != plain[0]["engine_gap"]


def test_a_trained_token_of_the_policys_own_needs_a_logprob() -> None:
    with pytest.raises(ValueError, match="a: response token 1 takes loss and has no behaviour logprob"):
        TrainSequence("a", (1,), (2, 3), (-1.0, NAN), (0, 0), (1.0, 1.0), (True, True))
    TrainSequence("a", (1,), (2, 3), (-1.0, NAN), (0, 0), (1.0, 1.0), (True, True), off_policy=(False, True))
    with pytest.raises(ValueError, match="off_policy has 1 entries for 2"):
        TrainSequence("a", (1,), (2, 3), (-1.0, -1.0), (0, 0), (1.0, 1.0), (True, True), off_policy=(False,))


def make(model: str, algorithm: dict[str, object], **trainer: object) -> Learner:
    return Learner(
        model,
        AlgorithmSettings.model_validate(algorithm),
        TrainerSettings.model_validate({"dtype": "float32", "learning_rate": 1e-3, **trainer}),
        temperature=1.0,
        rank=0,
        world_size=1,
        device=CPU,
    )
