"""The `otc_po` term: right, with as few calls of tools as it takes."""

import math

from rewards.group import Group
from rewards.registry import Example, RefusedOptionError, group_term
from rewards.response import Fact, Response, ToolCall
from rewards.verdict import Verdict


def tool_efficiency(calls: int, fewest: float, smoothing: float) -> float:
    """1 where m = n = 0, cos(m pi / (2 m + c)) where n = 0 < m, else sin(m pi / (m + n)), m calls and n the fewest of
    a right answer (OTC, arXiv 2504.14870): at most 1, and that at m = n."""
    if calls == fewest == 0:
        return 1.0
    if fewest == 0:
        return math.cos(calls * math.pi / (2 * calls + smoothing))
    return math.sin(calls * math.pi / (calls + fewest))


def _calls(number: int) -> Response:
    return Response(f"e/{number}", "", "...", tool_calls=(ToolCall("search"),) * number)


@group_term(
    "otc_po",
    example=Example(
        Group((_calls(1), _calls(2), _calls(1)), ({"math": 1.0}, {"math": 1.0}, {"math": 0.0})),
        (1.0, math.sin(2 * math.pi / 3), 0.0),
    ),
)
def tool_use_reward(
    group: Group, *, smoothing: float = 1.0, scope: str = "group", of: str | None = None, correct_at: float = 1.0
) -> list[Verdict]:
    """1[right] times the efficiency of the answer's tool calls (`tool_efficiency`): OTC-GRPO (arXiv 2504.14870). It is
    the whole reward: give the correctness term the weight 0.

    Args:
        smoothing: c, above 0.
        scope: the fewest calls are the `group`'s, or those of the prompt's `history` too.
        of, correct_at: see `rlcr`.
    """
    if smoothing <= 0 or scope not in ("group", "history"):
        raise RefusedOptionError(f"smoothing={smoothing} must be above 0, and scope={scope!r} group or history")
    right = group.correct(of, correct_at)
    calls = [len(response.tool_calls) for response in group.responses]
    known = [group.history["otc_po/calls"]] if scope == "history" and "otc_po/calls" in group.history else []
    fewest = min([*known, *(count for count, hit in zip(calls, right, strict=True) if hit)], default=0)
    return [
        Verdict(
            tool_efficiency(count, fewest, smoothing) if hit else 0.0,
            facts=(Fact("otc_po/calls", float(count), "least"),) if hit and scope == "history" else (),
        )
        for count, hit in zip(calls, right, strict=True)
    ]
