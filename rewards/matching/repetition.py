"""The `repetition` term: how much of an answer says again what it said before."""

from collections.abc import Sequence

from rewards.registry import Example, RefusedOptionError, term
from rewards.response import Response


def repeated_share(items: Sequence[object], n: int) -> float:
    """1 - distinct n-grams / all n-grams, 0 where there are none; linear in the number of items."""
    count = len(items) - n + 1
    return 1.0 - len({tuple(items[start : start + n]) for start in range(count)}) / count if count > 0 else 0.0


@term("repetition", example=Example(Response("e", "", "so so so"), 0.5, {"ngram": 2, "of": "words"}))
def repetition_reward(response: Response, *, ngram: int = 20, of: str = "tokens") -> float:
    """Share of n-grams that repeat an earlier one, in [0, 1): 1 - distinct / all (arXiv 2502.03373). Weigh it below 0.

    Args:
        ngram: above 0; long ones find loops, short ones the words that every text repeats.
        of: `tokens` (where the response has them, words otherwise) or `words`.
    """
    if ngram < 1 or of not in ("tokens", "words"):
        raise RefusedOptionError(f"ngram={ngram} must be at least 1, and of={of!r} tokens or words")
    by_tokens = of == "tokens" and response.token_ids
    return repeated_share(response.token_ids if by_tokens else response.text.split(), ngram)
