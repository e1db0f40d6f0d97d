"""Rewards as a user would write them."""

from rewards.response import Response, SpanReward
from rewards.verdict import Verdict


def low_bytes(response: Response) -> float:
    """Share of the answer's characters that are letters or digits: any model gets some of it."""
    return sum(character.isalnum() for character in response.text) / max(1, len(response.text))


def raises(response: Response) -> float:
    raise RuntimeError(f"no verdict on {response.sample_id}")


def flags_odd_signs(response: Response) -> Verdict:
    """The same, and a penalty for the very characters that are neither letter nor digit."""
    odd = [place for place, character in enumerate(response.text) if not character.isalnum()]
    return Verdict(low_bytes(response), tuple(SpanReward(place, place + 1, -0.5) for place in odd))
