"""The gap's alarm: when it rings, when it is silent again, and what it makes of the run."""

import math

import pytest

from actors.settings import GapAlarmSettings
from orchestrator.errors import RunError
from orchestrator.gap_watch import GapWatch, fresh_gap
from orchestrator.policies.gap_alarm import EARLY, GapAlarm


def alarm(*, limit: float = 0.1, factor: float = 3.0, patience: int = 2, floor: float = 0.001) -> GapAlarm:
    return GapAlarm(limit=limit, factor=factor, patience=patience, floor=floor)


def changes(subject: GapAlarm, *gaps: float | None) -> list[bool | None]:
    """What each value brings: True rings, False is silent again, None changes nothing."""
    found = [subject.observe(gap) for gap in gaps]
    return [None if finding is None else finding.ringing for finding in found]


def test_one_outlier_does_not_ring_and_patience_does() -> None:
    subject = alarm()
    assert changes(subject, 0.05, 0.5, 0.05, 0.5, 0.5) == [None, None, None, None, True]


def test_it_rings_once_and_is_silent_only_well_below_the_limit() -> None:
    subject = alarm()
    assert changes(subject, 0.5, 0.5, 0.5, 0.5) == [None, True, None, None]
    # 0.08 is within the limit of 0.1, but not below 0.7 of it.
    assert changes(subject, 0.08, 0.08, 0.08) == [None, None, None]
    assert changes(subject, 0.05, 0.08, 0.05, 0.05) == [None, None, None, False]
    assert changes(subject, 0.5, 0.5) == [None, True]


def test_growth_beyond_what_was_usual_rings_within_the_absolute_limit() -> None:
    subject = alarm(limit=1.0)
    assert changes(subject, *[0.02] * EARLY) == [None] * EARLY
    assert subject.limit == pytest.approx(0.06)
    assert changes(subject, 0.059, 0.061, 0.061) == [None, None, True]


def test_growth_below_the_floor_does_not_count() -> None:
    subject = alarm(floor=0.01)
    changes(subject, *[1e-6] * EARLY)
    assert changes(subject, 0.009, 0.009, 0.011, 0.011) == [None, None, None, True]


def test_a_mismatch_from_the_start_never_becomes_the_usual() -> None:
    subject = alarm()
    assert changes(subject, *[0.5] * 20).count(True) == 1
    assert subject.limit == 0.1
    assert subject.state.early == ()


def test_what_is_not_a_number_counts_as_too_large_and_nothing_to_compare_as_nothing() -> None:
    assert changes(alarm(), math.nan, math.nan) == [None, True]
    assert changes(alarm(), 0.5, None, 0.5) == [None, None, True]


def test_its_state_goes_on_in_another_process() -> None:
    first, second = alarm(patience=3), alarm(patience=3)
    changes(first, 0.05, 0.5, 0.5)
    second.state = first.state
    assert changes(second, 0.5) == [True]


def watch(said: list[str], **settings: object) -> GapWatch:
    given = GapAlarmSettings.model_validate({"patience": 2, **settings})
    return GapWatch(given, "the probe", limit=0.1, warned=said.append)


def test_a_warning_is_one_line_with_causes_and_the_setting() -> None:
    said: list[str] = []
    subject = watch(said)
    for gap in (0.3, 0.3, 0.3, 0.01, 0.01):
        subject.observe(gap)
    rings, calms = said
    assert "the probe" in rings
    assert "0.3 nats, 2 times in a row above 0.1" in rings
    assert "rollout.dtype" in rings
    assert "weight_sync.gap_alarm.limit" in rings
    assert "agree again" in calms
    assert "\n" not in rings + calms


def test_the_recipe_may_name_the_limit_and_stop_the_run() -> None:
    said: list[str] = []
    subject = watch(said, limit=0.2, action="stop")
    subject.observe(0.15)
    subject.observe(0.15)
    subject.observe(0.3)
    with pytest.raises(RunError, match=r"disagree on the probe.*; see whether rollout.engine=torch"):
        subject.observe(0.3)
    assert said == []


def test_a_step_without_comparable_tokens_says_nothing() -> None:
    assert fresh_gap({"engine_gap_unmixed": 0.0, "engine_gap_unmixed_tokens": 0.0}) is None
    assert fresh_gap({"engine_gap_unmixed": 0.25, "engine_gap_unmixed_tokens": 3.0}) == 0.25
