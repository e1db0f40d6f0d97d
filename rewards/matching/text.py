"""The `exact`, `phrase` and `regex` terms: an answer compared as text."""

import unicodedata
from collections.abc import Iterator, Mapping, Sequence

from rewards.extraction import by_marker
from rewards.patterns import compiled
from rewards.registry import Example, RefusedOptionError, term
from rewards.response import Response

_EDGES = " \t\n\r.,;:!?\"'`*_"


def folded(text: str) -> str:
    """For comparison: look-alike forms (NFKC) and case are one, white space is one blank, the edges are bare."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).strip(_EDGES)


@term(
    "exact",
    example=Example(Response("e", "Capital of France?", "<answer>Paris.</answer>", "paris"), 1.0),
)
def exact_reward(
    response: Response, *, marker: str = "<answer></answer>", aliases: Mapping[str, Sequence[str]] | None = None
) -> float:
    """1.0 where the answer is the reference, letter case, look-alike forms (NFKC) and outer punctuation aside.

    Args:
        marker: what the answer follows or stands in, as for `reasoning_gym`; without it the whole text is compared.
        aliases: for a label the other ways to write it (Dementia diagnosis RL).

    Raises: ValueError where the response has no reference.
    """
    if response.reference is None:
        raise ValueError("the prompt has no reference; set data.answer_column")
    marked = by_marker(response.text, marker)
    known = dict(_spellings(aliases or {}))
    given, right = (folded(text) for text in (response.text if marked is None else marked, response.reference))
    return float(known.get(given, given) == known.get(right, right))


def _spellings(aliases: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, str]]:
    for label, others in aliases.items():
        for spelling in (label, *others):
            yield folded(spelling), folded(label)


@term(
    "phrase",
    example=Example(Response("e", "", "First, we count. Let me check."), 0.5, {"phrases": ["first, we", "however"]}),
)
def phrase_reward(response: Response, *, phrases: Sequence[str]) -> float:
    """Share of the phrases that occur, letter case aside: the reasoning pattern reward (RPR, arXiv 2505.22653).

    It asks for the words of reasoning and looks at no answer.
    """
    if not phrases or isinstance(phrases, str) or not all(phrase.strip() for phrase in phrases):
        raise RefusedOptionError("phrases must list at least one phrase, and none that is empty")
    text = " ".join(response.text.casefold().split())
    return sum(" ".join(phrase.casefold().split()) in text for phrase in phrases) / len(phrases)


@term("regex", example=Example(Response("e", "", "It is 42 km."), 1.0, {"pattern": r"\d+ km"}))
def regex_reward(response: Response, *, pattern: str) -> float:
    """1.0 where the regular expression is found anywhere in the text. `format` wants it to match the whole text."""
    return float(compiled(pattern).search(response.text) is not None)
