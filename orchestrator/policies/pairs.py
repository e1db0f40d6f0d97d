"""Pairs of a better and a worse answer to one prompt, for losses that compare them. Pure and seeded.

Invariants: no pair mixes prompts, none holds one answer twice, and the chosen answer's reward is never below the
rejected one's.
"""

import random
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from learners.settings import Section
from orchestrator.policies.grades import Grade


class PairSettings(Section):
    rule: Literal["best_worst", "random"] = "best_worst"
    """`best_worst`: the best with the worst by reward, then the second best with the second worst, and so on.
    `random`: right answers with wrong ones, drawn without replacement."""
    per_prompt: int = Field(1, ge=1)
    """Most pairs made of one prompt's answers."""
    margin: float = Field(0.0, ge=0)
    """Least difference of reward between the two; 0 asks for some difference."""


def paired_answers(grades: Sequence[Grade], settings: PairSettings, seed: str) -> tuple[tuple[int, int], ...]:
    """(chosen, rejected) numbers of answers; none where no two differ enough.

    Args:
        seed: decides between answers that the rule finds equal.
    """
    order = list(range(len(grades)))
    random.Random(seed).shuffle(order)
    if settings.rule == "random":
        chosen, rejected = ([n for n in order if grades[n].right is right] for right in (True, False))
    else:
        chosen = sorted(order, key=lambda n: -grades[n].reward)
        # Where the two meet in the middle an answer would be its own opponent.
        chosen, rejected = chosen[: len(order) // 2], chosen[::-1][: len(order) // 2]
    gaps = [(n, m, grades[n].reward - grades[m].reward) for n, m in zip(chosen, rejected, strict=False)]
    wide = [(n, m) for n, m, gap in gaps if gap >= settings.margin and gap > 0]
    return tuple(wide[: settings.per_prompt])
