"""The restart budget: so many within the window, per name, and no more."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.policies.restart_budget import RestartBudget

CALLS = st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 40)), max_size=80)
"""Names, and seconds since the call before."""


def test_a_restart_is_forgotten_when_the_window_has_passed() -> None:
    budget = RestartBudget(2, window_s=10)
    assert [budget.allow("rollout-0", now) for now in (0, 4, 9.9, 10, 13.9, 14)] == [
        True,
        True,
        False,
        True,
        False,
        True,
    ]


def test_a_refusal_spends_nothing() -> None:
    budget = RestartBudget(1, window_s=10)
    assert budget.allow("rollout-0", 0)
    assert not budget.allow("rollout-0", 9)
    assert budget.spent("rollout-0", 9) == 1
    assert budget.spent("rollout-0", 10) == 0


def test_a_budget_of_zero_allows_none() -> None:
    assert not RestartBudget(0, window_s=1).allow("rollout-0", 0)


@pytest.mark.parametrize(("most", "window_s"), [(-1, 1), (1, 0), (1, -1)])
def test_impossible_budgets_are_refused(most: int, window_s: float) -> None:
    with pytest.raises(ValueError, match="most"):
        RestartBudget(most, window_s)


@settings(deadline=None)
@given(calls=CALLS, most=st.integers(0, 4), window_s=st.integers(1, 60))
def test_no_window_holds_more_than_most_and_none_is_refused_before(
    calls: list[tuple[str, int]], most: int, window_s: int
) -> None:
    budget, now = RestartBudget(most, window_s), 0
    allowed: dict[str, list[int]] = {"a": [], "b": []}
    for name, pause in calls:
        now += pause
        within = [at for at in allowed[name] if now - at < window_s]
        assert budget.spent(name, now) == len(within) <= most
        assert budget.allow(name, now) == (len(within) < most)
        if len(within) < most:
            allowed[name].append(now)
