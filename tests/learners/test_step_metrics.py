"""The metrics that tell whether staleness hurts, against values worked out by hand."""

import math

import pytest
import torch

from learners.batch import TrainSequence
from learners.meter import TokenMeter
from learners.micro_batch import micro_batch
from learners.step_metrics import describe, record


def measured(weights: list[float], start: list[float] | None = None) -> dict[str, float]:
    """Of an answer whose four tokens were sampled at logprob -1 under the versions 5, 5, 4 and 2, at version 5."""
    item = TrainSequence("a", (1,), (2, 3, 4, 5), (-1.0,) * 4, (5, 5, 4, 2), (1.0,) * 4, (True,) * 4)
    meter = TokenMeter(torch.device("cpu"))
    record(
        meter,
        entropy=torch.zeros(4),
        micro=micro_batch([item], version=5),
        start=None if start is None else torch.tensor(start),
        seen={"correction_weight": torch.tensor(weights)},
    )
    return describe(meter.reduce(), [1.0])


@pytest.mark.parametrize(
    ("weights", "share"),
    [
        ([1.0] * 4, 1.0),
        ([0.5] * 4, 1.0),
        ([1.0, 0.0, 0.0, 0.0], 1 / 4),
        # (2 + 1 + 1)^2 / (4 x (4 + 1 + 1))
        ([2.0, 1.0, 1.0, 0.0], 2 / 3),
        ([0.0] * 4, 0.0),
    ],
)
def test_the_effective_sample_is_kishs_share_of_the_tokens(weights: list[float], share: float) -> None:
    assert measured(weights)["correction_ess"] == pytest.approx(share, rel=1e-12)


def test_gaps_of_fresh_and_stale_tokens_are_told_apart() -> None:
    metrics = measured([1.0] * 4, start=[-1.25, -0.75, -1.5, -3.0])
    assert metrics["engine_gap"] == 0.25
    assert metrics["policy_gap_stale"] == (0.5 + 2.0) / 2
    assert metrics["policy_gap_stale_max"] == 2.0
    assert metrics["engine_gap_kl"] == pytest.approx((math.exp(-0.25) + math.exp(0.25)) / 2 - 1, rel=1e-6)


def test_only_answers_without_an_older_token_tell_engine_and_learner_apart() -> None:
    # The first answer's fresh token stands behind a stale one: its keys and values may be older than its version.
    mixed = TrainSequence("a", (1,), (2, 3), (-1.0, -1.0), (4, 5), (1.0,) * 2, (True,) * 2)
    fresh = TrainSequence("b", (1,), (2, 3, 4), (-1.0,) * 3, (5, 5, 5), (1.0,) * 3, (True, False, True))
    meter = TokenMeter(torch.device("cpu"))
    record(
        meter,
        entropy=torch.zeros(4),
        micro=micro_batch([mixed, fresh], version=5),
        start=torch.tensor([-3.0, -2.0, -1.25, -0.5]),
        seen={"correction_weight": torch.ones(4)},
    )
    metrics = describe(meter.reduce(), [1.0])
    assert metrics["engine_gap"] == pytest.approx((1.0 + 0.25 + 0.5) / 3)
    assert metrics["engine_gap_unmixed"] == (0.25 + 0.5) / 2
    assert metrics["engine_gap_unmixed_tokens"] == 2


def test_where_every_answer_is_mixed_nothing_is_compared() -> None:
    metrics = measured([1.0] * 4, start=[-1.25, -0.75, -1.5, -3.0])
    assert metrics["engine_gap_unmixed_tokens"] == 0


def test_staleness_is_counted_per_token() -> None:
    metrics = measured([1.0] * 4)
    assert metrics["staleness_mean"] == (0 + 0 + 1 + 3) / 4
    assert metrics["staleness_max"] == 3
    assert metrics["stale_fraction"] == 0.5
