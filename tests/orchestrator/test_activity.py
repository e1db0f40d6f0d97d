"""Waiting time and laps, on a clock that the test moves."""

from types import SimpleNamespace

import pytest
from rich.console import Console

from orchestrator.activity import Activity
from orchestrator.progress import Progress


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_waits_and_tokens_are_counted_per_lap_and_over_the_run() -> None:
    clock = Clock()
    fleet = SimpleNamespace(tokens=50, members=())
    did: list[str] = []
    activity = Activity(
        fleet,  # type: ignore[arg-type]
        SimpleNamespace(waiting=0),  # type: ignore[arg-type]
        None,  # type: ignore[arg-type]
        Progress("t", Console(quiet=True)),
        lambda doing, began_at, ended_at: did.append(doing),
        clock,
    )
    clock.now += 5  # start-up counts for nothing
    activity.begin()
    with activity.learner("waits", "for a batch"):
        clock.now += 3
    with activity.learner("trains"):
        clock.now += 1
    fleet.tokens = 250
    lap = activity.lap()
    assert (lap.seconds, lap.waited_s, lap.tokens, lap.tokens_per_s) == (4, 3, 200, 50)
    clock.now += 4
    assert activity.lap().waited_s == 0
    activity.end()
    clock.now += 100
    assert activity.train_s == 8
    assert did == ["waits", "trains"]
    assert activity.idle_fractions() == {"learner": pytest.approx(3 / 8, abs=1e-4)}
