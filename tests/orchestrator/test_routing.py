"""Routing: version floor and limit always hold, load decides, and a group stays near its prompt's KV."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.policies.request_queue import Ticket
from orchestrator.policies.routing import EngineView, Router

ENGINES = st.lists(
    st.builds(
        EngineView,
        name=st.sampled_from("abcdef"),
        version=st.integers(0, 3),
        running=st.integers(0, 10),
        limit=st.integers(1, 10),
        draining=st.booleans(),
    ),
    max_size=6,
    unique_by=lambda engine: engine.name,
)


def ticket(group: int = 0, *, min_version: int = 0) -> Ticket:
    return Ticket(f"{group}/1", group, 1, min_version, 0, None, False)


def engine(name: str, running: int, *, limit: int = 16, version: int = 0, draining: bool = False) -> EngineView:
    return EngineView(name, version, running, limit, draining)


def test_the_least_loaded_for_its_size_is_chosen() -> None:
    assert Router().choose(ticket(), [engine("small", 3, limit=4), engine("large", 6)]) == "large"


@pytest.mark.parametrize(
    "engines",
    [
        [],
        [engine("full", 16)],
        [engine("above its lowered limit", 17)],
        [engine("old", 0, version=1)],
        [engine("draining", 0, version=2, draining=True)],
    ],
)
def test_nobody_takes_what_nobody_may_take(engines: list[EngineView]) -> None:
    assert Router().choose(ticket(min_version=2), engines) is None


def test_a_group_goes_where_it_has_gone_before_within_the_slack() -> None:
    router = Router(affinity_slack=2)
    assert router.choose(ticket(7), [engine("a", 0), engine("b", 1)]) == "a"
    assert router.choose(ticket(7), [engine("a", 3), engine("b", 1)]) == "a"
    assert router.choose(ticket(8), [engine("a", 3), engine("b", 1)]) == "b", "another group has no reason to"
    assert router.choose(ticket(7), [engine("a", 4), engine("b", 1)]) == "b", "too busy"
    assert router.choose(ticket(7), [engine("a", 0), engine("b", 1)]) == "b", "where its newest answer is"


@pytest.mark.parametrize("lost", ["the group", "the engine"])
def test_what_is_forgotten_draws_nobody(lost: str) -> None:
    router = Router(affinity_slack=2)
    assert router.choose(ticket(7), [engine("b", 0)]) == "b"
    if lost == "the group":
        router.forget(7)
    else:
        router.forget_engine("b")
    assert router.choose(ticket(7), [engine("a", 0), engine("b", 0)]) == "a"


@settings(deadline=None)
@given(
    rounds=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), ENGINES), max_size=20),
    slack=st.none() | st.integers(0, 5),
)
def test_floor_limit_slack_and_determinism_hold_for_every_choice(
    rounds: list[tuple[int, int, list[EngineView]]], slack: int | None
) -> None:
    router, twin = Router(slack), Router(slack)
    for group, min_version, engines in rounds:
        asked = ticket(group, min_version=min_version)
        chosen = router.choose(asked, engines)
        assert twin.choose(asked, engines[::-1]) == chosen
        able = [e for e in engines if e.version >= min_version and not e.draining and e.running < e.limit]
        if chosen is None:
            assert able == []
            continue
        winner = next(e for e in able if e.name == chosen)
        level = min(e.running / e.limit for e in able)
        assert winner.running - level * winner.limit <= (slack or 0) + 1e-9
