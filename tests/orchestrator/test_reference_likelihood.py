"""The reference in the place of an answer: which ids stay, which are scored."""

import pytest

from actors.settings import LikelihoodSettings
from orchestrator.reference_likelihood import Placed, ReferencePlacer
from orchestrator.token_bytes import bytes_of_tokens
from tests.orchestrator.tokenizers_by_kind import READABLE

PROMPT = (1, 2, 3)


def placer(kind: str, most_tokens: int = 200, **settings: str) -> tuple[ReferencePlacer, object]:
    tokenizer = READABLE[kind]()

    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
        return ids

    chosen = LikelihoodSettings(**settings)
    return ReferencePlacer(chosen, bytes_of_tokens(tokenizer), encode, most_tokens=most_tokens), tokenizer


@pytest.mark.parametrize("kind", READABLE)
@pytest.mark.parametrize("reasoning", ["the step is x² 🎉 ", "<answer>1</answer> no: ", ""])
def test_reasoning_stays_as_it_was_sampled(kind: str, reasoning: str) -> None:
    place, tokenizer = placer(kind)
    answer = tuple(tokenizer.encode(f"{reasoning}<answer>日本</answer>", add_special_tokens=False))  # type: ignore[attr-defined]
    placed = place.behind_reasoning(PROMPT, answer, "¼ é")
    assert placed is not None
    kept = len(PROMPT) + len(tokenizer.encode(f"{reasoning}<answer>", add_special_tokens=False)) - 1  # type: ignore[attr-defined]
    assert placed.token_ids[:kept] == (PROMPT + answer)[:kept]
    read = bytes_of_tokens(tokenizer)  # type: ignore[arg-type]
    assert b"".join(read(placed.token_ids[placed.first :])).decode().strip() == "¼ é"
    assert b"".join(read(placed.token_ids[len(PROMPT) :])).decode().endswith("<answer>¼ é")


def test_a_token_that_holds_the_end_of_the_tag_is_written_anew() -> None:
    """Here the tag ends in the middle of a token."""
    place, tokenizer = placer("byte level", opening="the ste")
    answer = tuple(tokenizer.encode("so the step", add_special_tokens=False))  # type: ignore[attr-defined]
    placed = place.behind_reasoning(PROMPT, answer, "x")
    assert placed is not None
    read = bytes_of_tokens(tokenizer)  # type: ignore[arg-type]
    assert b"".join(read(placed.token_ids[len(PROMPT) :])) == b"so the stex"
    assert b"x" in b"".join(read(placed.token_ids[placed.first :]))


def test_no_place_and_no_room() -> None:
    place, tokenizer = placer("byte level", most_tokens=12)
    encode = tokenizer.encode  # type: ignore[attr-defined]
    assert place.behind_reasoning(PROMPT, tuple(encode("4")), "4") is None
    assert place.behind_reasoning(PROMPT, tuple(encode("<answer>4")), "日本語日本語") is None
    assert place.without_reasoning(PROMPT, "日本語日本語") is None


def test_without_reasoning_the_reference_follows_the_prompt() -> None:
    place, tokenizer = placer("byte level", direct="x: ")
    placed = place.without_reasoning(PROMPT, "42")
    assert placed is not None
    assert b"".join(bytes_of_tokens(tokenizer)(placed.token_ids[3:])) == b"x: 42"  # type: ignore[arg-type]


def test_the_logprobs_of_the_reference_are_the_last_ones() -> None:
    placed = Placed((7, 8, 9, 10), first=2)
    assert placed.of_reference([-1.0, -2.0, -3.0]) == (-2.0, -3.0)
