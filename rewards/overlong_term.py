"""The `overlong` term: does the answer end in time?"""

from rewards.registry import term
from rewards.response import Response


@term("overlong")
def overlong(response: Response, *, buffer: int, longest: int | None = None) -> float:
    """0 up to longest - buffer tokens, then falling evenly to -1 at longest and beyond: soft overlong punishment (DAPO,
    arXiv 2503.14476, equation 13).

    Its weight is what an answer that is cut loses. Sampling must leave room for the whole of it:
    `rollout.max_response_tokens` at least `longest`.

    Args:
        buffer: tokens over which it falls, from 1 to `longest`.
        longest: None takes the token budget under which the answer was asked for (`rollout.budgets`).

    Raises: ValueError where there is no such budget, or the buffer is longer than the whole.
    """
    budget = response.metadata.get("budget") if longest is None else longest
    if not isinstance(budget, int):
        raise ValueError("longest is not set, and the answer was asked for under no budget")
    if not 1 <= buffer <= budget:
        raise ValueError(f"buffer={buffer} must be from 1 to longest={budget}")
    beyond = response.response_tokens - (budget - buffer)
    return -min(max(beyond, 0) / buffer, 1.0)
