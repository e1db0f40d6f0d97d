"""Rewards as a user would write them."""

import time

from rewards.group import Group
from rewards.registry import of_group
from rewards.response import Fact, Response, SpanReward
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


@of_group
def seen_before(group: Group) -> list[Verdict]:
    """1 for every answer where the prompt was scored in an earlier step."""
    known = float("visited" in group.history)
    return [Verdict(known, facts=(Fact("visited", 1.0, "least"),)) for _ in group.responses]


def hangs_on_hard_ones(response: Response) -> float:
    """Never ends where the question says that it is hard."""
    while "hard" in response.question:
        time.sleep(0.1)
    return low_bytes(response)


def raises_on_the_last(response: Response) -> float:
    """No verdict on the fourth answer of each group."""
    if response.sample_id.endswith("/3"):
        raise RuntimeError(f"no verdict on {response.sample_id}")
    return low_bytes(response)
