"""The concurrency of an engine follows the pressure on its KV cache, within bounds, one settled change at a time."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.policies.concurrency import Concurrency

LOADS = st.lists(
    st.tuples(st.integers(0, 300), st.integers(0, 50), st.floats(0, 1), st.floats(0, 5)), min_size=1, max_size=60
)
"""Running, waiting, KV use, and seconds since the load before."""


def test_it_starts_at_the_bound_and_falls_by_the_factor() -> None:
    control = Concurrency(100, 0.7, 0.9, decrease=0.75)
    assert control.limit == 100
    control.observe(running=100, waiting=0, kv_use=0.95, now=0)
    assert control.limit == 75


def test_it_falls_from_what_really_runs() -> None:
    control = Concurrency(128, 0.7, 0.9)
    control.observe(running=40, waiting=0, kv_use=0.95, now=0)
    assert control.limit == 30


def test_it_does_not_fall_again_before_the_engine_has_come_down_to_it() -> None:
    control = Concurrency(100, 0.7, 0.9, settle_s=1)
    control.observe(running=100, waiting=0, kv_use=0.95, now=0)
    for now in range(2, 60):
        control.observe(running=76, waiting=0, kv_use=0.99, now=now)
    assert control.limit == 75, "long answers still hold their places"
    control.observe(running=75, waiting=0, kv_use=0.99, now=60)
    assert control.limit == 56


def test_it_holds_inside_the_band_and_where_no_more_places_are_asked_for() -> None:
    control = Concurrency(100, 0.7, 0.9, step=5, settle_s=0)
    control.observe(running=100, waiting=0, kv_use=0.95, now=0)
    for now, (running, waiting, kv_use) in enumerate([(75, 9, 0.7), (75, 9, 0.9), (74, 9, 0.1), (75, 0, 0.1)]):
        control.observe(running, waiting, kv_use, now)
        assert control.limit == 75
    control.observe(running=75, waiting=1, kv_use=0.69, now=9)
    assert control.limit == 80


@pytest.mark.parametrize(
    ("most", "low", "high", "step", "decrease", "settle_s"),
    [
        (0, 0.7, 0.9, 1, 0.5, 1),
        (9, 0.9, 0.7, 1, 0.5, 1),
        (9, 0.7, 0.9, 0, 0.5, 1),
        (9, 0.7, 0.9, 1, 1.0, 1),
        (9, 0.7, 0.9, 1, 0.5, -1),
    ],
)
def test_impossible_settings_are_refused(
    most: int, low: float, high: float, step: int, decrease: float, settle_s: float
) -> None:
    with pytest.raises(ValueError, match="must"):
        Concurrency(most, low, high, step, decrease, settle_s)


@settings(deadline=None)
@given(most=st.integers(1, 200), step=st.integers(1, 16), settle_s=st.floats(0, 8), loads=LOADS)
def test_it_stays_within_its_bounds_and_changes_are_apart(
    most: int, step: int, settle_s: float, loads: list[tuple[int, int, float, float]]
) -> None:
    control, now, changed_at = Concurrency(most, 0.6, 0.8, step, settle_s=settle_s), 0.0, float("-inf")
    for running, waiting, kv_use, pause in loads:
        now += pause
        before = control.limit
        control.observe(running, waiting, kv_use, now)
        assert 1 <= control.limit <= most
        if control.limit != before:
            assert now - changed_at >= settle_s
            assert control.limit < before if kv_use > 0.8 else kv_use < 0.6 and control.limit - before <= step
            changed_at = now


@settings(deadline=None)
@given(most=st.integers(1, 200), step=st.integers(1, 16))
def test_constant_pressure_leads_to_one_and_its_end_back_to_the_bound(most: int, step: int) -> None:
    control, now = Concurrency(most, 0.6, 0.8, step, settle_s=1), 0
    for kv_use, end in ((1.0, 1), (0.0, most)):
        for _ in range(most + 1):
            now += 1
            control.observe(running=control.limit, waiting=1, kv_use=kv_use, now=now)
        assert control.limit == end


@settings(deadline=None)
@given(most=st.integers(2, 200), step=st.integers(1, 8), answers_that_fit=st.floats(1.5, 400))
def test_it_settles_in_the_band_where_one_step_cannot_leap_over_it(
    most: int, step: int, answers_that_fit: float
) -> None:
    low, high = 0.6, 0.85
    if step / answers_that_fit > high - low:
        step = 1
    control = Concurrency(most, low, high, step, settle_s=1)
    limits = []
    for now in range(3 * most):
        running = control.limit
        control.observe(running, 1, min(1.0, running / answers_that_fit), now)
        limits.append(control.limit)
    settled = control.limit
    if 1 / answers_that_fit <= high - low:
        assert low <= settled / answers_that_fit <= high or (settled == most and settled / answers_that_fit < low)
        assert set(limits[2 * most :]) == {settled}, "and does not swing"
