"""Rewards as a user would write them."""

from rewards.response import Response


def low_bytes(response: Response) -> float:
    """Share of the answer's characters that are letters or digits: any model gets some of it."""
    return sum(character.isalnum() for character in response.text) / max(1, len(response.text))


def raises(response: Response) -> float:
    raise RuntimeError(f"no verdict on {response.sample_id}")
