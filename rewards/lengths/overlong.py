"""Terms that look at the length of one answer: `overlong` and `cosine_length`."""

import math
from collections.abc import Sequence

from rewards.group import Group
from rewards.registry import Example, RefusedOptionError, group_term, term
from rewards.response import Response


@term(
    "overlong",
    example=Example(Response("e", "", "...", response_tokens=768), -0.5, {"max_tokens": 1024, "buffer": 512}),
)
def overlong_reward(response: Response, *, buffer: int, max_tokens: int | None = None) -> float:
    """0 up to L_max - L_buffer tokens, then linear to -1 at L_max, and -1 beyond: the soft overlong punishment of DAPO
    (arXiv 2503.14476, equation 13).

    Args:
        max_tokens: L_max; None is the budget that the answer was asked for under (`rollout.budgets`).
    """
    if buffer < 1 or (max_tokens is not None and buffer > max_tokens):
        raise RefusedOptionError(f"buffer={buffer} must be above 0 and at most max_tokens={max_tokens}")
    longest = int(str(response.metadata["budget"])) if max_tokens is None else max_tokens
    over = response.response_tokens - (longest - buffer)
    return -min(max(over / buffer, 0.0), 1.0)


def cosine(start: float, end: float, progress: float) -> float:
    """From `start` at progress 0 to `end` at 1 along half a cosine; constant outside."""
    along = min(max(progress, 0.0), 1.0)
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * along))


_PAIR = Group(
    (Response("e/0", "", "...", response_tokens=500), Response("e/1", "", "...", response_tokens=1000)),
    ({"math": 1.0}, {"math": 0.0}),
)


@group_term("cosine_length", example=Example(_PAIR, (0.75, -0.5), {"max_tokens": 1000}))
def cosine_length_reward(
    group: Group,
    *,
    max_tokens: int,
    right: Sequence[float] = (1.0, 0.5),
    wrong: Sequence[float] = (-1.0, -0.5),
    truncated: float | None = None,
    of: str | None = None,
    correct_at: float = 1.0,
) -> list[float]:
    """r_end + (r_start - r_end) (1 + cos(pi L / L_max)) / 2, with ends of their own for right and wrong answers
    (arXiv 2502.03373; Open-RS, arXiv 2503.16219; with these ends Phi-4-reasoning, arXiv 2504.21318). It is the whole
    reward: give the correctness term the weight 0.

    Args:
        right, wrong: reward at length 0 and at `max_tokens`.
        truncated: of answers that were cut off; None treats them like the others.
        of, correct_at: see `rlcr`.
    """
    if max_tokens < 1 or len(right) != 2 or len(wrong) != 2:
        raise RefusedOptionError("max_tokens must be above 0, and right and wrong are two rewards each")
    rewards = []
    for response, length, hit in zip(group.responses, group.lengths, group.correct(of, correct_at), strict=True):
        start, end = right if hit else wrong
        shaped = cosine(start, end, length / max_tokens)
        rewards.append(truncated if response.truncated and truncated is not None else shaped)
    return rewards
