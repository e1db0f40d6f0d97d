"""The bytes of tokens, for every kind of tokenizer: together they are the decoded text, whatever a policy samples."""

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from orchestrator.errors import SettingError
from orchestrator.token_bytes import bytes_of_tokens
from orchestrator.token_rewards import TokenRewards
from rewards.response import SpanReward
from rewards.spans import token_offsets
from tests.orchestrator.tokenizers_by_kind import READABLE, TEXTS, word_piece

made = cache(lambda kind: READABLE[kind]())
kinds = pytest.mark.parametrize("kind", READABLE)


def decoded(tokenizer: PreTrainedTokenizerFast, token_ids: list[int]) -> str:
    return str(tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


@kinds
@settings(max_examples=300, deadline=None)
@given(st.data())
def test_bytes_of_any_tokens_are_the_text(kind: str, data: st.DataObject) -> None:
    tokenizer = made(kind)
    size = len(tokenizer)
    token_ids = data.draw(st.lists(st.integers(0, size + 3), max_size=20))  # a model's head may be wider
    pieces = bytes_of_tokens(tokenizer)(token_ids)
    assert len(pieces) == len(token_ids)
    known = [token for token in token_ids if token < size]
    assert b"".join(pieces).decode("utf-8", "replace") == decoded(tokenizer, known)


@kinds
@pytest.mark.parametrize("text", TEXTS)
def test_every_character_of_a_text_finds_its_tokens(kind: str, text: str) -> None:
    """Multi-byte characters and joined emoji, each with a reward of its own."""
    tokenizer = made(kind)
    token_ids = tokenizer.encode(text)
    shown = decoded(tokenizer, token_ids)
    assert "\ufffd" not in shown
    pieces = bytes_of_tokens(tokenizer)(token_ids)
    starts = [sum(map(len, pieces[:n])) for n in range(len(pieces))]
    pay = TokenRewards(bytes_of_tokens(tokenizer))
    for place, character in enumerate(shown):
        begin = len(shown[:place].encode())
        end = begin + len(character.encode())
        owns = [start < end and start + len(piece) > begin for start, piece in zip(starts, pieces, strict=True)]
        assert pay(token_ids, [SpanReward(place, place + 1, 1.0)]) == tuple(map(float, owns)), (place, character)


def test_a_step_of_emoji_is_found_byte_by_byte() -> None:
    """Four bytes of one emoji in four tokens, by hand."""
    tokenizer = made("llama")
    token_ids = [258, *[2 + byte for byte in "🎉".encode()], 262]  # a space that is stripped, the emoji, "t"
    assert decoded(tokenizer, token_ids) == "🎉t"
    assert token_offsets(bytes_of_tokens(tokenizer)(token_ids)) == [(0, 0), (0, 1), (0, 1), (0, 1), (0, 1), (1, 2)]
    pay = TokenRewards(bytes_of_tokens(tokenizer))
    assert pay(token_ids, [SpanReward(0, 1, -0.5)]) == (0, -0.5, -0.5, -0.5, -0.5, 0)
    assert pay(token_ids, [SpanReward(0, 2, 2.0, "last")]) == (0, 0, 0, 0, 0, 2.0)
    assert pay(token_ids, []) == ()


def test_a_tokenizer_that_nobody_can_follow_is_refused_by_name() -> None:
    with pytest.raises(SettingError, match="decoder of the kind WordPiece"):
        bytes_of_tokens(word_piece())
