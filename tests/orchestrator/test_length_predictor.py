"""Predicted lengths: the group's own answers first, then earlier epochs, and never more memory than allowed."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.policies.length_predictor import LengthPredictor

ENDS = st.lists(st.tuples(st.integers(0, 12), st.integers(1, 5000), st.booleans()), max_size=120)
"""Group, tokens of an answer that ended, and whether the group is over then."""


def test_nothing_is_known_at_first() -> None:
    assert LengthPredictor(8).predict("sum/1", 0) is None


def test_a_group_is_expected_to_go_as_far_as_its_longest_answer() -> None:
    lengths = LengthPredictor(8)
    for tokens in (30, 90, 60):
        lengths.finished("sum/1", 0, tokens)
    assert lengths.predict("sum/1", 0) == 90
    assert lengths.predict("sum/1", 1) is None, "another group of the prompt, in the same epoch"
    assert lengths.predict("sum/2", 2) is None


def test_history_is_what_earlier_groups_took_the_newest_weighing_most() -> None:
    lengths = LengthPredictor(8)
    for group, tokens in enumerate((400, 200)):
        lengths.finished("sum/1", group, 1)
        lengths.finished("sum/1", group, tokens)
        lengths.forget(group)
    assert lengths.predict("sum/1", 2) == 300
    lengths.finished("sum/1", 2, 10)
    assert lengths.predict("sum/1", 2) == 10, "the group's own answers know better"


def test_the_prompt_used_longest_ago_is_dropped_first() -> None:
    lengths = LengthPredictor(2)
    for group, prompt in enumerate(("old", "asked", "new")):
        if prompt == "new":
            assert lengths.predict("asked", 9) == 5
            assert lengths.predict("old", 9) == 5
        lengths.finished(prompt, group, 5)
        lengths.forget(group)
    assert [lengths.predict(prompt, 9) for prompt in ("asked", "old", "new")] == [None, 5, 5]


def test_a_group_that_nobody_forgets_becomes_history_by_itself() -> None:
    lengths = LengthPredictor(2)
    for group, prompt in enumerate(("a", "b", "c")):
        lengths.finished(prompt, group, 7)
    assert lengths.predict("a", 99) == 7
    assert lengths.predict("c", 99) is None


def test_a_group_belongs_to_one_prompt() -> None:
    lengths = LengthPredictor(2)
    lengths.finished("a", 0, 7)
    with pytest.raises(ValueError, match="group 0 is of prompt a"):
        lengths.finished("b", 0, 7)


def test_it_must_remember_something() -> None:
    with pytest.raises(ValueError, match="remember"):
        LengthPredictor(0)


def test_a_hundred_thousand_prompts_leave_no_more_than_the_bound() -> None:
    lengths = LengthPredictor(50)
    for index in range(100_000):
        lengths.finished(f"sum/{index}", index, index % 97)
        if index % 3:
            lengths.forget(index)
    assert len(lengths) <= 100
    assert lengths.predict("sum/99999", 99_999) == 99_999 % 97


@settings(deadline=None)
@given(ends=ENDS, remember=st.integers(1, 20))
def test_a_prediction_lies_within_what_the_prompt_has_shown(ends: list[tuple[int, int, bool]], remember: int) -> None:
    lengths = LengthPredictor(remember)
    seen: dict[str, list[int]] = {}
    for group, tokens, over in ends:
        prompt = f"sum/{group % 4}"
        lengths.finished(prompt, group, tokens)
        seen.setdefault(prompt, []).append(tokens)
        predicted = lengths.predict(prompt, group)
        assert predicted is not None
        assert tokens <= predicted <= max(seen[prompt])
        if over:
            lengths.forget(group)
        assert len(lengths) <= 2 * remember
    for prompt, tokens_seen in seen.items():
        predicted = lengths.predict(prompt, 99)
        assert predicted is None or min(tokens_seen) <= predicted <= max(tokens_seen)
