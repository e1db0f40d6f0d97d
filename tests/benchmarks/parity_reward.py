"""The reward of the long-tail benchmark: learnable, and blind to the length of an answer, which is replayed."""

from rewards.response import Response


def even_digits(response: Response) -> float:
    """Share of the answer's characters that are even digits."""
    return sum(character in "02468" for character in response.text) / max(1, len(response.text))
