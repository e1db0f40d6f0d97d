"""The length bias: what was trained against what was asked for, cut answers included."""

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.policies.length_bias import LengthBias, product_limit
from tests.orchestrator.event_builders import log_normal_lengths

LENGTHS = st.lists(st.integers(1, 4000), min_size=1, max_size=200)


def test_the_product_limit_estimate_is_that_of_a_hand_computed_example() -> None:
    # Finished at 3, 5, 5 and 10, cut at 4 and 7: at risk 6, 4, 1.
    survival = product_limit(Counter([3, 5, 5, 10]), Counter([4, 7]))
    steps = dict(zip(survival.lengths, survival.after, strict=True))
    assert steps == pytest.approx({3: 5 / 6, 4: 5 / 6, 5: 5 / 6 * 2 / 4, 7: 5 / 12, 10: 0.0})
    assert survival.mean == pytest.approx(3 + 2 * 5 / 6 + 5 * 5 / 12)
    assert survival.quantile(0.5) == 5
    assert survival.quantile(0.9) == 10


def test_an_answer_cut_at_a_length_is_at_risk_there_and_not_beyond() -> None:
    survival = product_limit(Counter([5, 9]), Counter([5]))
    assert survival.after == pytest.approx((2 / 3, 0.0))


def test_a_quantile_beyond_the_last_cut_is_the_greatest_length_seen() -> None:
    survival = product_limit(Counter([2]), Counter([8, 8, 8]))
    assert survival.quantile(0.9) == 8
    assert survival.mean == pytest.approx(2 + 6 * 3 / 4), "the mean is restricted to 8"


@given(lengths=LENGTHS)
def test_without_cuts_and_with_everything_trained_there_is_exactly_no_bias(lengths: list[int]) -> None:
    bias = LengthBias()
    for length in lengths:
        bias.submitted(length, cut=False)
        bias.trained(length)
    row = bias.row()
    assert row["length_bias/mean_ratio"] == 1.0
    assert row["length_bias/distance"] == 0.0
    assert row["length_bias/mean_submitted"] == pytest.approx(math.fsum(lengths) / len(lengths))


@given(finished=LENGTHS, cut=st.lists(st.integers(1, 4000), max_size=200))
def test_a_survival_function_falls_from_at_most_one_to_at_least_zero(finished: list[int], cut: list[int]) -> None:
    survival = product_limit(Counter(finished), Counter(cut))
    assert all(0.0 <= share <= 1.0 for share in survival.after)
    assert list(survival.after) == sorted(survival.after, reverse=True)
    assert survival.mean <= survival.lengths[-1] * (1 + 1e-12)


@given(seed=st.integers(0, 1000))
def test_keeping_the_first_to_finish_shows_as_a_ratio_below_one(seed: int) -> None:
    """Of 200 started together the first half is kept, and the rest cut at that moment."""
    lengths = sorted(log_normal_lengths(200, seed=seed))
    kept, cut_at = lengths[:100], lengths[99]
    bias = LengthBias()
    for length in kept:
        bias.submitted(length, cut=False)
        bias.trained(length)
    for length in lengths[100:]:
        bias.submitted(min(length, cut_at), cut=True)
    row = bias.row()
    # Beyond the cut nothing is known. Up to it one half is as long as what was trained, the other as long as the cut.
    mean = sum(kept) / len(kept)
    assert row["length_bias/mean_ratio"] == pytest.approx(mean / (mean / 2 + cut_at / 2))
    assert row["length_bias/mean_ratio"] < 0.9
    assert row["length_bias/distance"] == pytest.approx(0.5)
    assert row["length_bias/cut_share"] == 0.5


def test_cuts_at_random_lengths_do_not_shift_the_estimate() -> None:
    lengths = log_normal_lengths(20_000, seed=3)
    limits = log_normal_lengths(20_000, seed=4, median=300, sigma=1.5, most=4000)
    finished = Counter(length for length, limit in zip(lengths, limits, strict=True) if length <= limit)
    cut = Counter(limit for length, limit in zip(lengths, limits, strict=True) if length > limit)
    survival, truth = product_limit(finished, cut), product_limit(Counter(lengths), {})
    assert cut.total() > 4000
    naive = product_limit(finished + cut, {})
    # The estimate's standard error at the median is below sqrt(0.25 / at risk there), here about 0.005.
    assert survival.distance(truth) < 0.02
    assert naive.distance(truth) > 0.05, "counting a cut answer as complete is what the estimator is there to avoid"


def test_there_is_no_row_before_anything_was_trained() -> None:
    bias = LengthBias()
    bias.submitted(10, cut=False)
    assert bias.row() == {}
