"""Which of a group's answers are kept to train on by likelihood: rejection sampling. Pure and seeded."""

import random
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from learners.settings import Section
from orchestrator.policies.grades import Grade


class KeepSettings(Section):
    rule: Literal["right", "best", "shortest_right"] = "right"
    """`right`: right answers, at random (rejection-sampling fine-tuning, arXiv 2308.01825). `best`: those of the
    highest reward (RAFT, arXiv 2304.06767). `shortest_right`: the shortest right ones."""
    per_prompt: int = Field(1, ge=1)
    """Most answers kept of one prompt."""
    least: float | None = None
    """With `best`: reward below which nothing is kept; None keeps the best of any group."""
    restart: bool = False
    """Each step trains from the weights that the stage began with, with a fresh optimizer (as STaR does, arXiv
    2203.14465), on answers of the newest weights. Off: training goes on."""


def kept(grades: Sequence[Grade], settings: KeepSettings, seed: str) -> tuple[int, ...]:
    """Numbers of the answers to keep, ascending; none where no answer passes.

    Args:
        seed: decides between answers that the rule finds equal.
    """
    order = list(range(len(grades)))
    random.Random(seed).shuffle(order)
    if settings.rule == "best":
        passing = [n for n in order if settings.least is None or grades[n].reward >= settings.least]
        passing.sort(key=lambda n: -grades[n].reward)
    else:
        passing = [n for n in order if grades[n].right]
        if settings.rule == "shortest_right":
            passing.sort(key=lambda n: grades[n].tokens)
    return tuple(sorted(passing[: settings.per_prompt]))
