"""What terms remember of prompts."""

import json
from itertools import permutations

import pytest
from pydantic import ValidationError

from rewards.history import PromptHistory
from rewards.response import Fact


def least(value: float, name: str = "length") -> Fact:
    return Fact(name, value, "least")


def average(value: float, *, shared: bool = False) -> Fact:
    return Fact("share", value, "average", shared)


def test_a_note_is_remembered_from_the_next_turn_on() -> None:
    history = PromptHistory()
    history.note("a", [least(30), least(20)])
    assert history.of("a") == {}
    history.turn()
    assert history.of("a") == {"length": 20}
    history.note("a", [least(25)])
    history.turn()
    assert history.of("a") == {"length": 20}
    assert history.of("b") == {}


def test_an_average_starts_at_the_first_mean_and_moves_towards_the_next() -> None:
    history = PromptHistory(rate=0.25)
    history.note("a", [average(1), average(0)])
    history.turn()
    history.note("a", [average(1), average(0.7), average(1)])
    history.turn()
    assert history.of("a") == {"share": pytest.approx(0.5 + 0.25 * (0.9 - 0.5))}


def test_the_order_of_the_notes_of_a_turn_does_not_matter() -> None:
    notes = [
        ("a", least(3)),
        ("a", least(1)),
        ("b", average(0.1)),
        ("b", average(0.7)),
        ("", average(0.3, shared=True)),
    ]
    states = set()
    for order in permutations(notes):
        history = PromptHistory()
        for item, fact in order:
            history.note(item, [fact])
        history.turn()
        states.add(json.dumps([history.of("a"), history.of("b"), history.shared], sort_keys=True))
    assert len(states) == 1


def test_facts_of_the_run_are_shared_and_a_prompt_without_a_name_has_none() -> None:
    history = PromptHistory()
    history.note("a", [average(1, shared=True)])
    history.note("", [least(4), average(0, shared=True)])
    history.turn()
    assert history.shared == {"share": 0.5}
    assert len(history) == 0


def test_the_prompt_visited_longest_ago_goes_first() -> None:
    history = PromptHistory(capacity=2)
    for item in ("a", "b", "a", "c"):
        history.note(item, [least(1)])
        history.turn()
    assert [bool(history.of(item)) for item in "abc"] == [True, False, True]


def test_the_state_is_json_and_holds_the_notes_of_the_open_turn() -> None:
    history = PromptHistory()
    history.note("a", [least(30), average(0.5, shared=True)])
    history.turn()
    history.note("a", [least(10)])
    other = PromptHistory()
    other.restore(json.loads(json.dumps(history.state())))
    assert (other.of("a"), other.shared) == ({"length": 30}, {"share": 0.5})
    other.turn()
    history.turn()
    assert other.of("a") == history.of("a") == {"length": 10}
    with pytest.raises(ValidationError):
        other.restore({"facts": 3, "run": {}, "noted": []})
