"""How far apart rewards usually are, and the filter that goes by it."""

import pytest

from orchestrator.policies.group_filters import GroupOutcome, low_spread
from orchestrator.policies.spread_memory import RATE, SpreadMemory


def test_the_average_moves_once_a_step_whatever_the_order() -> None:
    # Deviations 0.5 and 0.25: the first step's mean is 0.375.
    groups = [(0.0, 1.0), (0.0, 0.5)]
    one, other = (SpreadMemory().note(first).note(second) for first, second in (groups, groups[::-1]))
    assert one.usual is None
    assert one.turn() == other.turn() == SpreadMemory(0.375)
    assert one.turn().note((0.0, 0.0)).turn().usual == pytest.approx(0.375 * (1 - RATE))
    assert SpreadMemory(0.3).turn() == SpreadMemory(0.3)
    assert SpreadMemory().note(()).note((1.0,)) == SpreadMemory()


def outcome(*rewards: float, usual: float | None) -> GroupOutcome:
    return GroupOutcome(rewards, (1,) * len(rewards), (False,) * len(rewards), usual_spread=usual)


def test_groups_that_hardly_differ_are_left_out() -> None:
    group = outcome(0.4, 0.6, usual=0.25)  # a deviation of 0.1
    assert low_spread(group, share=0.3) is group
    assert low_spread(group, share=0.5) is None
    assert low_spread(outcome(0.4, 0.6, usual=None)) is not None
    assert low_spread(outcome(0.7, 0.7, usual=None)) is None
    assert low_spread(outcome(0.7, 0.7, usual=0.1), share=0.0) is None
    with pytest.raises(ValueError, match="share=-1"):
        low_spread(group, share=-1)
