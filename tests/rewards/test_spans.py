"""From parts of a text to tokens."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.response import SpanReward
from rewards.spans import on_tokens, token_offsets


def test_a_token_owns_each_character_of_which_it_has_a_byte() -> None:
    text = "xéy€z".encode()
    pieces = [text[:2], text[2:4], text[4:5], text[5:6], text[6:]]
    assert token_offsets(pieces) == [(0, 2), (1, 3), (3, 4), (3, 4), (3, 5)]


def test_bytes_that_are_no_text_show_as_one_sign_each() -> None:
    assert token_offsets([b"a", b"\xff", b"b"]) == [(0, 1), (1, 2), (2, 3)]
    assert token_offsets([b"a", b"", b"b"]) == [(0, 1), (1, 1), (1, 2)]
    assert token_offsets([b"a\xe2", b"\x82"])[-1][1] == len("a\ufffd")
    assert token_offsets([]) == []


@given(st.text(max_size=30), st.lists(st.integers(0, 90), max_size=12))
def test_tokens_cover_the_text_in_order_wherever_it_is_cut(text: str, cuts: list[int]) -> None:
    raw = text.encode("utf-8", "replace")
    shown = raw.decode()
    edges = sorted({0, len(raw), *(cut for cut in cuts if cut < len(raw))})
    pieces = [raw[start:stop] for start, stop in pairwise(edges)]
    offsets = token_offsets(pieces)
    starts = [len(raw[:edge].decode(errors="ignore")) for edge in edges[:-1]]
    assert [start for start, _ in offsets] == starts
    assert {n for start, stop in offsets for n in range(start, stop)} == set(range(len(shown)))
    for piece, (start, stop) in zip(pieces, offsets, strict=True):
        whole = piece.decode(errors="ignore")
        assert whole in shown[start:stop]


OFFSETS = [(0, 3), (3, 5), (5, 5), (5, 9)]


@pytest.mark.parametrize(
    ("spans", "rewards"),
    [
        ((SpanReward(0, 3, 1.0),), [1, 0, 0, 0]),
        ((SpanReward(2, 4, 1.0),), [1, 1, 0, 0]),
        ((SpanReward(2, 9, -0.5, "last"),), [0, 0, 0, -0.5]),
        ((SpanReward(0, 9, 1.0), SpanReward(4, 5, 2.0)), [1, 3, 0, 1]),
        ((SpanReward(4, 4, 1.0),), [0, 0, 0, 0]),
        ((SpanReward(9, 20, 1.0, "last"),), [0, 0, 0, 0]),
    ],
)
def test_a_span_pays_the_tokens_that_it_shares_a_character_with(
    spans: tuple[SpanReward, ...], rewards: list[float]
) -> None:
    assert on_tokens(spans, OFFSETS) == rewards
