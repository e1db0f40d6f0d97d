"""The `hapo` term: shorter than ever before, and still right?"""

import math
from typing import Literal

from rewards.group import Group
from rewards.registry import Example, RefusedOptionError, group_term
from rewards.response import Fact, Response
from rewards.verdict import Verdict


def against_history(length: int, record: float, right: bool, floor: float) -> float:
    """f = cos(min(pi / 2 * L / h, pi)); max(f, floor) where the answer is right, min(f, 0) where it is wrong."""
    value = math.cos(min(math.pi / 2 * length / record, math.pi)) if record > 0 else -1.0
    return max(value, floor) if right else min(value, 0.0)


_GROUP = Group(
    (Response("e/0", "", "...", response_tokens=100), Response("e/1", "", "...", response_tokens=300)),
    ({"math": 1.0}, {"math": 1.0}),
    history={"hapo/length": 200.0},
)


@group_term("hapo", example=Example(_GROUP, (math.sqrt(0.5), -math.sqrt(0.5)), {"floor": -0.8}))
def hapo_reward(
    group: Group,
    *,
    floor: float = -0.7,
    statistic: str = "least",
    of: str | None = None,
    correct_at: float = 1.0,
) -> list[Verdict]:
    """cos(min(pi / 2 L / h, pi)), at least `floor` for right answers and at most 0 for wrong ones, h being the length
    of the shortest right answer to this prompt in earlier visits; 0 before there was one: HAPO (arXiv 2505.11225).

    The history is the run's, bounded by `reward.history_prompts` and part of its checkpoints; it moves at the end of a
    step, so all answers of a step meet the same.

    Args:
        floor: in [-1, 0]; the paper's constants are not settled, -0.7 is this project's reading.
        statistic: `least`, or `average`: h is a moving average of right answers' lengths.
        of, correct_at: see `rlcr`.
    """
    if statistic not in ("least", "average") or not -1 <= floor <= 0:
        raise RefusedOptionError(f"statistic={statistic!r} must be least or average, and floor={floor} in [-1, 0]")
    record = group.history.get("hapo/length")
    rule: Literal["least", "average"] = "least" if statistic == "least" else "average"
    return [
        Verdict(
            0.0 if record is None else against_history(length, record, hit, floor),
            facts=(Fact("hapo/length", float(length), rule),) if hit else (),
        )
        for length, hit in zip(group.lengths, group.correct(of, correct_at), strict=True)
    ]
