"""How an interrupted answer goes on, apart from any engine: its room, its draws, its segments."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.answer_room import answer_room
from actors.continuation import drawing_seed, joined, sequence_so_far
from actors.engine import GenerationRequest, Sampling, Segment

STOP = 9
segments = st.lists(
    st.builds(
        lambda version, values: Segment(version, tuple(values), tuple(-float(value) for value in values)),
        st.integers(-1, 3),
        st.lists(st.integers(10, 99), max_size=4),
    ),
    max_size=6,
)


def request(prefix: list[Segment], *, max_tokens: int = 40, seed: int = 1) -> GenerationRequest:
    return GenerationRequest("r", (1, 2, 3), Sampling(max_tokens, stop_token_ids=(STOP,), seed=seed), tuple(prefix))


def per_token(parts: tuple[Segment, ...] | list[Segment]) -> list[tuple[int, int, float]]:
    return [(s.version, token, logprob) for s in parts for token, logprob in zip(s.token_ids, s.logprobs, strict=True)]


@given(segments)
def test_joining_changes_no_token_and_leaves_no_equal_neighbours(parts: list[Segment]) -> None:
    whole = joined(parts)
    assert per_token(whole) == per_token(parts)
    assert all(a.version != b.version for a, b in pairwise(whole))
    assert all(segment.token_ids for segment in whole)


@given(segments, st.integers(25, 60), st.integers(30, 60))
def test_the_room_counts_prompt_and_prefix(parts: list[Segment], max_tokens: int, context_length: int) -> None:
    asked = request(parts, max_tokens=max_tokens)
    room = answer_room(asked, context_length)
    sampled = len(sequence_so_far(asked)) - len(asked.prompt_ids)
    assert room + sampled == min(max_tokens, context_length - len(asked.prompt_ids))


def test_a_prefix_that_is_a_whole_answer_is_refused() -> None:
    with pytest.raises(ValueError, match="ends in stop token 9"):
        answer_room(request([Segment(0, (4, STOP), (0.0, 0.0))]), 100)
    full = [Segment(0, tuple(range(10, 50)), (0.0,) * 40)]
    with pytest.raises(ValueError, match=r"prefix of 40 tokens: its answer may have 40"):
        answer_room(request(full), 100)
    with pytest.raises(ValueError, match=r"prefix of 40 tokens: its answer may have 37"):
        answer_room(request(full, max_tokens=90), 40)


@given(st.integers(0, 2**31), st.integers(0, 2**31))
def test_draws_behind_a_prefix_are_others_than_those_that_made_it(seed: int, other: int) -> None:
    def after(tokens: int, seed: int) -> int:
        return drawing_seed(request([Segment(0, (5,) * tokens, (0.0,) * tokens)], seed=seed))

    assert after(0, seed) == seed
    seeds = {after(tokens, seed) for tokens in range(1, 5)}
    assert len(seeds | {seed}) == 5
    assert all(0 <= value < 2**63 for value in seeds)
    assert (after(1, seed) == after(1, other)) == (seed == other)
