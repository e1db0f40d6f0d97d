"""How long accelerators are foreseen to idle, from what fleet and learner say of themselves."""

from dataclasses import dataclass, field

import pytest

from orchestrator.activity import Activity
from orchestrator.idle_time import LEARNER, idle_ahead
from tests.orchestrator.test_activity import Clock, Listener


@dataclass
class Fleet:
    """What `idle_ahead` reads of a fleet."""

    answers: dict[str, list[float]]
    waiting: int = 0
    tokens_per_s: float = 100.0
    tokens: int = 0
    members: tuple[()] = field(default=())

    def remaining(self) -> dict[str, list[float]]:
        return self.answers


def activity_of(fleet: Fleet, clock: Clock) -> Activity:
    return Activity(fleet, None, None, Listener(), clock)  # type: ignore[arg-type]


def ahead(fleet: Fleet, activity: Activity) -> dict[str, float]:
    return dict(idle_ahead(fleet, activity))  # type: ignore[arg-type]


def test_an_empty_engine_idles_until_the_last_answer_of_the_others_ends() -> None:
    fleet = Fleet({"a": [50.0, 300.0], "b": [], "c": [10.0]})
    assert ahead(fleet, activity_of(fleet, Clock())) == {"b": pytest.approx(3.0)}


def test_no_engine_idles_while_answers_wait_or_nothing_is_known() -> None:
    for fleet in (Fleet({"a": [50.0], "b": []}, waiting=1), Fleet({"a": [50.0], "b": []}, tokens_per_s=0.0)):
        assert ahead(fleet, activity_of(fleet, Clock())) == {}


def test_the_learner_waits_as_long_as_it_lately_did() -> None:
    clock, fleet = Clock(), Fleet({"a": [1.0]})
    activity = activity_of(fleet, clock)
    activity.begin()
    with activity.learner("waits"):
        assert ahead(fleet, activity) == {}, "nothing is known of its waits yet"
        clock.now += 2.0
    with activity.learner("waits"):
        clock.now += 4.0
    assert ahead(fleet, activity) == {}
    with activity.learner("waits"):
        clock.now += 1.0
        assert ahead(fleet, activity) == {LEARNER: pytest.approx(2.0)}
    with activity.learner("trains"):
        assert ahead(fleet, activity) == {}
