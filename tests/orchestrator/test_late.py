"""What becomes of late answers, policy by policy."""

from typing import get_args

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.policies.late import LatePolicy, LateRule

POLICIES: tuple[LatePolicy, ...] = get_args(LatePolicy)


def test_late_answers_are_trained_up_to_the_hard_bound() -> None:
    rule = LateRule("train", max_staleness=1, hard=3)
    within = rule.judge([5, 2, 4], version=5)
    assert within.dropped is None
    assert within.late == {1}
    assert within.masked == frozenset()
    beyond = rule.judge([5, 1], version=5)
    assert beyond.dropped == "staleness 4 exceeds rollout.hard_staleness=3"


def test_a_group_with_a_late_answer_is_dropped_whole() -> None:
    rule = LateRule("drop", max_staleness=1, hard=9)
    assert rule.judge([4, 4], version=5).dropped is None
    assert rule.judge([4, 3], version=5).dropped == "staleness 2 exceeds rollout.max_staleness=1"


def test_late_answers_count_in_the_baseline_alone() -> None:
    rule = LateRule("baseline_only", max_staleness=1, hard=9)
    verdict = rule.judge([5, 3, 4], version=5)
    assert verdict.dropped is None
    assert verdict.late == verdict.masked == {1}
    assert rule.judge([3, 3], version=5).dropped == "all 2 answers exceed rollout.max_staleness=1"


@given(
    policy=st.sampled_from(POLICIES),
    max_staleness=st.integers(0, 4),
    extra=st.integers(0, 4),
    ages=st.lists(st.integers(0, 10), min_size=1, max_size=6),
)
def test_no_token_that_takes_gradient_breaks_its_bound(
    policy: LatePolicy, max_staleness: int, extra: int, ages: list[int]
) -> None:
    if policy == "wait":
        ages = [min(age, max_staleness) for age in ages]  # the buffer's part of the bargain
    rule = LateRule(policy, max_staleness, max_staleness + extra)
    verdict = rule.judge([20 - age for age in ages], version=20)
    assert verdict.late == {number for number, age in enumerate(ages) if age > max_staleness}
    if verdict.dropped is None:
        trained = [age for number, age in enumerate(ages) if number not in verdict.masked]
        assert trained
        assert max(trained) <= (max_staleness + extra if policy == "train" else max_staleness)
