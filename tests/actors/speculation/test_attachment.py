"""The ski renter's rule, and the account of what exploring may cost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.speculation.attachment import Attachment
from actors.speculation.exploration_budget import ExplorationBudget

WISHES = st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=60)
"""For each step: whether drafting is wanted, and what the other state would have saved."""


@given(wishes=WISHES, price=st.integers(1, 20))
def test_it_costs_at_most_thrice_what_hindsight_pays(wishes: list[tuple[bool, int]], price: int) -> None:
    attachment, paid = Attachment(), 0.0
    for wanted, cost in wishes:
        before = attachment.held
        if wanted:
            attachment.wanted(cost, price)
        else:
            attachment.unwanted(cost, price)
        paid += price if attachment.held and not before else 0
        paid += cost if attachment.held != wanted else 0
    # The best plan that knows all wishes: cheapest way through the two states.
    held, free = 0.0, 0.0
    for wanted, cost in wishes:
        attached, detached = min(held, free + price), min(held, free)
        held, free = attached + (0 if wanted else cost), detached + (cost if wanted else 0)
    # Each change costs its price in waiting and, one way, in doing; the last step before it adds one cost at most.
    assert paid <= 3 * min(held, free) + 3 * (price + 5)


def test_it_changes_when_as_much_was_paid_as_the_change_costs() -> None:
    attachment = Attachment()
    states = []
    for _ in range(4):
        attachment.unwanted(1.0, 3.0)
        states.append(attachment.held)
    assert states == [True, True, True, False]
    assert [attachment.wanted(2.0, 3.0) for _ in range(3)] == [False, False, True]


def test_nothing_to_catch_up_with_is_attached_at_once() -> None:
    attachment = Attachment()
    for _ in range(2):
        attachment.unwanted(1.0, 0.5)
    assert not attachment.held
    assert attachment.wanted(0.0, 0.0)


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 10)), max_size=80), st.floats(0, 0.5), st.floats(0, 5))
def test_no_more_is_spent_than_the_share(steps: list[tuple[float, float]], share: float, head_start: float) -> None:
    budget = ExplorationBudget(share)
    assert not budget.allows(0.0)
    budget.start(head_start)
    for seconds, wish in steps:
        budget.earn(seconds)
        if budget.allows(wish):
            budget.spend(wish)
        assert budget.spent_s <= share * budget.earned_s + head_start + 1e-9


def test_shares_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match=r"in \[0, 1\)"):
        ExplorationBudget(1.0)
