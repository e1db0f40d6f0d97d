"""When a fleet grows and shrinks, on a clock that is handed in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.policies.growth import GROW_AFTER_S, IDLE_S, PAUSE_S, Change, FleetView, GrowthRule

NOTHING = Change()


def view(*running: int, waiting: int = 0, coming: int = 0) -> FleetView:
    return FleetView({f"rollout-{number}": answers for number, answers in enumerate(running)}, coming, waiting)


def test_it_grows_when_answers_waited_without_a_break() -> None:
    rule = GrowthRule(1, 3)
    assert rule.look(view(8, waiting=5), 0.0) == NOTHING
    assert rule.look(view(8), GROW_AFTER_S - 1) == NOTHING, "a break"
    assert rule.look(view(8, waiting=5), GROW_AFTER_S) == NOTHING
    assert rule.look(view(8, waiting=1), 2 * GROW_AFTER_S) == Change(grow=True)
    assert rule.look(view(8, waiting=1, coming=1), 9 * GROW_AFTER_S) == NOTHING, "one at a time"
    assert rule.look(view(8, 8, waiting=1), 9 * GROW_AFTER_S) == Change(grow=True)
    assert rule.look(view(8, 8, 8, waiting=1), 99 * GROW_AFTER_S) == NOTHING, "not beyond the most"


def test_after_one_that_did_not_come_there_is_a_pause() -> None:
    rule = GrowthRule(1, 2)
    rule.look(view(8, waiting=5), 0.0)
    assert rule.look(view(8, waiting=5), 10.0).grow
    rule.did_not_come(20.0)
    assert rule.look(view(8, waiting=5), 20.0 + PAUSE_S - 1) == NOTHING
    assert rule.look(view(8, waiting=5), 20.0 + PAUSE_S).grow


def test_who_stood_idle_for_long_is_let_go_the_youngest_first_and_never_the_last() -> None:
    rule = GrowthRule(1, 3)
    assert rule.look(view(1, 0, 0), 0.0) == NOTHING
    assert rule.look(view(1, 0, 0), IDLE_S - 1) == NOTHING
    assert rule.look(view(1, 0, 0), IDLE_S) == Change(let_go="rollout-2")
    assert rule.look(view(0, 0), IDLE_S + 1) == Change(let_go="rollout-1")
    assert rule.look(view(0), 9 * IDLE_S) == NOTHING


def test_an_answer_in_between_begins_the_time_anew() -> None:
    rule = GrowthRule(1, 2)
    rule.look(view(1, 0), 0.0)
    rule.look(view(1, 1), IDLE_S - 1)
    assert rule.look(view(1, 0), IDLE_S) == NOTHING


def test_what_is_lost_of_the_least_is_not_its_business() -> None:
    rule = GrowthRule(2, 3)
    rule.look(view(8, waiting=5), 0.0)
    assert rule.look(view(8, waiting=5), 99.0) == NOTHING


def test_bounds_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(ValueError, match="a fleet of 3 to 2 engines"):
        GrowthRule(3, 2)


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(0, 9), st.booleans()), max_size=60), st.integers(1, 3))
def test_whatever_happens_the_fleet_stays_in_its_bounds(moments: list[tuple[float, int, bool]], least: int) -> None:
    rule, engines, now = GrowthRule(least, least + 2), least, 0.0
    for seconds, waiting, busy in moments:
        now += seconds
        change = rule.look(view(*[int(busy)] * engines, waiting=waiting), now)
        assert not (change.grow and change.let_go)
        assert not (change.let_go and waiting)
        engines += change.grow
        engines -= change.let_go is not None
        assert least <= engines <= least + 2
