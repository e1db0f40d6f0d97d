"""Moves in the tail: whole engines fall idle, nothing wanders, and it pays."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.policies.consolidation import EngineLoadView, Move, RunningAnswer, plan

FLEETS = st.lists(
    st.tuples(
        st.lists(st.tuples(st.integers(1, 4000), st.integers(0, 4000)), max_size=6),
        st.integers(1, 12),
        st.integers(0, 2),
    ),
    max_size=6,
)
"""Per engine: (tokens, remaining) of its answers, limit, version."""


def engine(name: str, answers: int, *, limit: int = 10, version: int = 0, tokens: int = 100) -> EngineLoadView:
    running = [RunningAnswer(f"{name}{number}", tokens, 100.0) for number in range(answers)]
    return EngineLoadView(name, running, limit, version)


def fleet_of(shape: list[tuple[list[tuple[int, int]], int, int]]) -> list[EngineLoadView]:
    return [
        EngineLoadView(
            f"e{place}", [RunningAnswer(f"{place}/{n}", t, r) for n, (t, r) in enumerate(answers)], limit, version
        )
        for place, (answers, limit, version) in enumerate(shape)
    ]


def carried_out(engines: list[EngineLoadView], moves: tuple[Move, ...]) -> list[EngineLoadView]:
    """The fleet after these moves; each takes exactly one answer from where it says."""
    answers = {e.name: {a.request_id: a for a in e.answers} for e in engines}
    for move in moves:
        answers[move.target][move.request_id] = answers[move.source].pop(move.request_id)
    return [replace(e, answers=tuple(answers[e.name].values())) for e in engines]


def test_the_least_loaded_engines_are_emptied_into_the_fullest() -> None:
    moves = plan([engine("a", 2), engine("b", 5), engine("c", 1), engine("idle", 0)], waiting=0, fill=0.8)
    assert moves == (Move("c0", "c", "b"), Move("a0", "a", "b"), Move("a1", "a", "b"))


def test_one_answer_each_on_two_engines_becomes_two_on_one() -> None:
    assert plan([engine("a", 1), engine("b", 1)], waiting=0, fill=0.5) == (Move("a0", "a", "b"),)


def test_nothing_moves_while_anything_waits() -> None:
    assert plan([engine("a", 1), engine("b", 1)], waiting=1, fill=1) == ()


def test_half_an_engine_is_not_emptied() -> None:
    assert plan([engine("a", 3), engine("b", 6)], waiting=0, fill=0.8) == ()


def test_a_place_is_given_away_once() -> None:
    engines = [engine("a", 1, limit=1), engine("b", 1, limit=1), engine("c", 5, limit=6)]
    assert plan(engines, waiting=0, fill=1) == (Move("a0", "a", "c"),)


def test_an_emptied_engine_stays_empty() -> None:
    engines = [engine("a", 1, limit=10), engine("b", 2, limit=2), engine("c", 3, limit=4)]
    assert plan(engines, waiting=0, fill=1) == (Move("a0", "a", "c"),)


def test_newer_weights_do_not_go_back_to_older_ones() -> None:
    assert plan([engine("a", 1, version=1), engine("b", 4, version=0)], waiting=0, fill=1) == (
        Move("b0", "b", "a"),
        Move("b1", "b", "a"),
        Move("b2", "b", "a"),
        Move("b3", "b", "a"),
    )


def test_a_move_that_costs_more_than_it_gains_is_not_made() -> None:
    engines = [engine("a", 1, tokens=401), engine("b", 4, tokens=401)]
    assert plan(engines, waiting=0, fill=1, reprefill_bound=4) == ()
    assert plan(engines, waiting=0, fill=1, reprefill_bound=4.01) == (Move("a0", "a", "b"),)


def test_what_was_moved_once_stays() -> None:
    engines = [engine("a", 2), engine("b", 4)]
    assert plan(engines, waiting=0, fill=1, moved={"a1"}) == tuple(Move(f"b{n}", "b", "a") for n in range(4))
    assert plan(engines, waiting=0, fill=1, moved={"a1", "b0"}) == ()


@pytest.mark.parametrize("fill", [0.0, 1.1])
def test_an_impossible_fill_is_refused(fill: float) -> None:
    with pytest.raises(ValueError, match="fill"):
        plan([], waiting=0, fill=fill)


@settings(deadline=None)
@given(shape=FLEETS, fill=st.floats(0.1, 1), bound=st.floats(0, 10), moved=st.sets(st.integers(0, 5), max_size=3))
def test_every_plan_empties_its_sources_and_respects_every_bound(
    shape: list[tuple[list[tuple[int, int]], int, int]], fill: float, bound: float, moved: set[int]
) -> None:
    engines = fleet_of(shape)
    stays = {f"{place}/0" for place in moved}
    moves = plan(engines, waiting=0, fill=fill, moved=stays, reprefill_bound=bound)
    before = {e.name: e for e in engines}
    after = {e.name: e for e in carried_out(engines, moves)}
    sources, targets = {move.source for move in moves}, {move.target for move in moves}
    assert sources.isdisjoint(targets)
    assert stays.isdisjoint(move.request_id for move in moves)
    assert all(before[move.target].version >= before[move.source].version for move in moves)
    for name in sources:
        assert after[name].answers == ()
        cost, gain = (sum(getattr(a, what) for a in before[name].answers) for what in ("tokens", "remaining"))
        assert cost <= bound * gain
    for name in targets:
        assert before[name].answers != []
        assert len(after[name].answers) <= math.floor(fill * after[name].limit)


@settings(deadline=None)
@given(shape=FLEETS, fill=st.floats(0.1, 1))
def test_repeated_planning_comes_to_rest_with_no_answer_moved_twice(
    shape: list[tuple[list[tuple[int, int]], int, int]], fill: float
) -> None:
    engines, moved = fleet_of(shape), set[str]()
    for _ in range(len(engines) + 1):
        moves = plan(engines, waiting=0, fill=fill, moved=moved)
        assert moved.isdisjoint(move.request_id for move in moves)
        moved |= {move.request_id for move in moves}
        engines = carried_out(engines, moves)
    assert moves == ()
