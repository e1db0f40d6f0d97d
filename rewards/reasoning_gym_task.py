"""The `reasoning_gym` term: an answer to a procedurally generated task, judged by the task's own scorer."""

import functools
from collections.abc import Callable, Mapping

import reasoning_gym

import rewards.puzzles.tasks  # noqa: F401 - it registers the tasks of this package
from rewards.extraction import by_marker
from rewards.registry import Example, term
from rewards.response import Json, Response

Scorer = Callable[[str, Mapping[str, Json]], float]

_EXAMPLE = Response(
    sample_id="example",
    question="State the final answer to the following arithmetic problem: 4 + 3 =",
    text="#### 7",
    metadata={"task": "chain_sum", "entry": {"question": "4 + 3 =", "answer": "7", "metadata": {}}},
)


@term("reasoning_gym", example=Example(_EXAMPLE, 1.0))
def reasoning_gym_reward(response: Response, *, marker: str = "####") -> float:
    """The scorer's value, in [0, 1] for most tasks, partial credit included.

    Args:
        response: keeps the task's name in ``metadata["task"]`` and the item as generated in ``metadata["entry"]``.
        marker: what the answer follows or stands in: ``####``, ``\\boxed{}``, ``<answer></answer>``, or any text.
            Where it is missing, the whole stripped text is tried.

    Raises:
        ValueError: the response carries no reasoning-gym item, or the task is not one of reasoning-gym's.
    """
    task, entry = response.metadata.get("task"), response.metadata.get("entry")
    if not isinstance(task, str) or not isinstance(entry, Mapping):
        raise ValueError("metadata holds no reasoning-gym item; this term needs a source with data.tasks")
    marked = by_marker(response.text, marker)
    return float(_scorer(task)(response.text.strip() if marked is None else marked, entry))


@functools.cache
def _scorer(task: str) -> Scorer:
    scorer: Scorer = reasoning_gym.get_score_answer_fn(task)
    return scorer
