"""Rewards that are wrong on purpose, to see what a run makes of them.

The published claims contradict each other: with 40% of the outcomes flipped a model still learned mathematics (The
Climb Carves Wisdom, arXiv 2505.22653), while on arithmetic that no model can have seen only accurate rewards help
(RandomCalculation, arXiv 2507.10532). Which answer is disturbed depends on its name and the seed alone, so that an
answer scored twice is disturbed alike.
"""

import random
from typing import Literal

Kind = Literal["flip", "random"]


def disturbed(
    reward: float, name: str, *, kind: Kind, rate: float, low: float = 0.0, high: float = 1.0, seed: int = 0
) -> float:
    """The reward, disturbed for a share `rate` of the names.

    Args:
        name: of the answer, or of the prompt where its answers are disturbed together.
        kind: `flip` gives low + high - reward, which inverts all rewards where the rate is 1; `random` gives low or
            high with even odds.
    """
    draw = random.Random(f"{seed}/{kind}/{name}")
    if draw.random() >= rate:
        return reward
    return draw.choice((low, high)) if kind == "random" else low + high - reward
