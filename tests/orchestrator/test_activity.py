"""Waiting time and laps, on a clock that the test moves."""

import asyncio
from types import SimpleNamespace

import pytest

from orchestrator.activity import Activity
from orchestrator.monitoring.scene import Scene


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Listener:
    def __init__(self) -> None:
        self.did: list[str] = []
        self.scene: Scene | None = None

    def learner_did(self, doing: str, began_at: float, ended_at: float) -> None:
        self.did.append(doing)

    def looked(self, scene: Scene) -> None:
        self.scene = scene


def test_waits_and_tokens_are_counted_per_lap_and_over_the_run() -> None:
    clock = Clock()
    fleet = SimpleNamespace(tokens=50, members=())
    listener = Listener()
    activity = Activity(
        fleet,  # type: ignore[arg-type]
        SimpleNamespace(waiting=0),  # type: ignore[arg-type]
        None,  # type: ignore[arg-type]
        listener,
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
    assert listener.did == ["waits", "trains"]
    assert activity.idle_fractions() == {"learner": pytest.approx(3 / 8, abs=1e-4)}


def engine(name: str, running: int) -> SimpleNamespace:
    load = SimpleNamespace(running=running, kv_use=0.5)
    return SimpleNamespace(link=SimpleNamespace(name=name, load=load), concurrency=SimpleNamespace(limit=8), version=3)


def test_who_joins_later_is_seen_and_may_be_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.activity.SAMPLE_S", 0.01)
    fleet = SimpleNamespace(tokens=0, members=(engine("rollout-0", 2),), waiting=5)
    dispatcher = SimpleNamespace(buffer=[1, 2], in_flight=3, aside=0)
    listener = Listener()
    activity = Activity(fleet, SimpleNamespace(waiting=4), dispatcher, listener)  # type: ignore[arg-type]
    activity.begin()
    fleet.members = (engine("rollout-0", 2), engine("rollout-1", 0))
    with pytest.raises(TimeoutError):
        asyncio.run(asyncio.wait_for(activity.watch(), timeout=0.2))
    assert listener.scene is not None
    assert [(one.name, one.running, one.limit, one.version) for one in listener.scene.engines] == [
        ("rollout-0", 2, 8, 3),
        ("rollout-1", 0, 8, 3),
    ]
    assert (listener.scene.waiting, listener.scene.to_score, listener.scene.buffered) == (5, 4, 2)
    assert listener.scene.idle["rollout-0"] == 0.0 < listener.scene.idle["rollout-1"] <= 1.0
