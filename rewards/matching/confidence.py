"""The `rlcr` term: does a model know how sure it may be?"""

import re

from rewards.extraction import inside_last_tag
from rewards.group import Group
from rewards.registry import Example, group_term
from rewards.response import Response

_NUMBER = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*(%?)")
_SURE = Response("e/0", "", r"\boxed{4} <confidence>0.9</confidence>", "4")
_WRONG = Response("e/1", "", r"\boxed{5} <confidence>90%</confidence>", "4")


@group_term("rlcr", example=Example(Group((_SURE, _WRONG), ({"math": 1.0}, {"math": 0.0})), (-0.1 * 0.1, -0.9 * 0.9)))
def rlcr_reward(
    group: Group,
    *,
    opening: str = "<confidence>",
    closing: str = "</confidence>",
    missing: float = -1.0,
    of: str | None = None,
    correct_at: float = 1.0,
) -> list[float]:
    """-(c - 1[right])^2, the Brier score of the confidence c that the answer states: RLCR (arXiv 2507.16806). Beside a
    correctness term of weight 1 the sum is RLCR's reward, largest where c is the chance to be right.

    Args:
        opening, closing: what c stands between, as a number in [0, 1] or in percent with its sign.
        missing: where c is missing or out of range; -1 is what the worst stated one gets.
        of: the term, as logged, that says what is right; None takes the recipe's first.
        correct_at: what counts as right.
    """
    stated = [_confidence(response.text, opening, closing) for response in group.responses]
    right = group.correct(of, correct_at)
    return [missing if c is None else -((c - hit) ** 2) for c, hit in zip(stated, right, strict=True)]


def _confidence(text: str, opening: str, closing: str) -> float | None:
    match = _NUMBER.fullmatch(inside_last_tag(text, opening, closing) or "")
    if match is None:
        return None
    value = float(match[1]) / (100 if match[2] else 1)
    return value if value <= 1 else None
