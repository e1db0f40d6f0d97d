"""A drafter is published only for a gain that is more than chance."""

import math
import random

import pytest

from orchestrator.drafting.publish_gate import Window, judge


def _windows(gain: float, count: int, seed: int, noise: float = 0.02) -> list[Window]:
    """Windows that differ by far more than the drafters do."""
    source = random.Random(seed)
    levels = [source.uniform(0.2, 0.9) for _ in range(count)]
    return [Window(level + gain + source.gauss(0, noise), level) for level in levels]


def test_a_small_gain_shows_in_pairs_though_the_windows_differ_widely() -> None:
    verdict = judge(_windows(0.02, 64, 0))
    assert verdict.publish
    assert verdict.reason.endswith("publish")
    assert verdict.difference == pytest.approx(0.02, abs=0.008)
    assert verdict.standard_error == pytest.approx(0.02 / 8, rel=0.3)


def test_no_gain_is_hardly_ever_published_and_a_loss_never() -> None:
    passed = sum(judge(_windows(0.0, 32, seed)).publish for seed in range(400))
    assert passed <= 24, "about 2 in 100, and chance"
    assert not any(judge(_windows(-0.02, 32, seed)).publish for seed in range(100))


def test_an_equal_drafter_is_kept_out_and_a_better_one_in_without_noise() -> None:
    assert not judge([Window(0.5, 0.5)] * 20).publish
    assert judge([Window(0.51, 0.5)] * 20).publish
    assert not judge([Window(0.51, 0.5)] * 20, least_gain=0.02).publish


def test_too_few_windows_decide_nothing() -> None:
    verdict = judge([Window(0.9, 0.1)] * 7)
    assert not verdict.publish
    assert "7 windows, and 8 are needed" in verdict.reason
    assert math.isnan(judge([]).difference)
    assert math.isnan(judge([Window(1, 0)]).standard_error)
    with pytest.raises(ValueError, match="least_windows"):
        judge([], least_windows=1)
