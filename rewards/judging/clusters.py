"""The `empo` term: answers that agree in meaning share a reward, and nobody reads a label."""

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Literal

from rewards.extraction import by_marker, stated_answer
from rewards.group import Group
from rewards.judging.seeds import seed_of
from rewards.judging.votes import instructed
from rewards.matching.text import folded
from rewards.math_answer import same_answer
from rewards.models.asking import Model, Models
from rewards.models.quoting import quoted
from rewards.models.verdicts import yes_in
from rewards.registry import Example, group_term, refusing_options
from rewards.response import Response

LONGEST_ANSWER = 1000
"""Characters of a final answer; a longer one is none."""
TASK = (
    "Do two final answers to a question mean the same? Another notation or wording is no difference. Reason briefly, "
    "then end with a line `Verdict: yes` or `Verdict: no`."
)
_SAME: dict[str, Callable[[str, str], bool]] = {
    "exact": lambda one, other: one.strip() == other.strip(),
    "normalised": lambda one, other: folded(one) == folded(other),
    "math": same_answer,
}
_TEXTS = (r"\boxed{0.5}", r"\boxed{\frac{1}{2}}", r"\boxed{2}", r"\boxed{1/2}")
_EXAMPLE = Group(tuple(Response(f"e/{number}", "", text) for number, text in enumerate(_TEXTS)), ({},) * 4)


@group_term("empo", example=Example(_EXAMPLE, (0.75, 0.75, 0.25, 0.75)))
async def empo(
    group: Group,
    *,
    models: Models | None = None,
    model: str | None = None,
    cluster: Literal["exact", "normalised", "math"] = "math",
    marker: str | None = None,
    entropy_low: float = 0.0,
    entropy_high: float | None = None,
    max_tokens: int = 256,
) -> list[float]:
    """|cluster of the answer| / n, answers being in one cluster where they mean the same: EMPO (arXiv 2504.05812). The
    rewards of a prompt whose semantic entropy, -sum p ln p over clusters in nats, is not strictly between the bounds
    are all 0, so that `algorithm.drop_zero_variance` leaves it out. References are never read.

    An answer without a final answer is a cluster by itself, and gets 0.

    Args:
        model: name in `reward.models` of the model that says what means the same; None compares by `cluster`.
        cluster: how final answers are compared without one: as they are, letter case and look-alike forms aside, or as
            mathematics.
        marker: what marks the final answer (see `by_marker`); None takes the last box, ``####`` or "answer:".
        entropy_high: None is ln n, which n clusters of one have.
    """
    with refusing_options():
        if cluster not in _SAME or max_tokens < 1:
            raise ValueError(f"cluster={cluster} must be one of {', '.join(_SAME)}, and max_tokens at least 1")
    answers = [_final(response.text, marker) for response in group.responses]
    # In an order of their own, so that the order of the responses means nothing.
    different = sorted({answer for answer in answers if answer is not None})
    pairs = list(combinations(different, 2))
    if model is None or models is None:
        same = [_SAME[cluster](one, other) for one, other in pairs]
    else:
        question = group.responses[0].question if group.responses else ""
        same = await asyncio.gather(*[_agree(models[model], question, pair, max_tokens) for pair in pairs])
    name = _clusters(different, [pair for pair, agree in zip(pairs, same, strict=True) if agree])
    clusters = [f"{number}" if answer is None else name[answer] for number, answer in enumerate(answers)]
    sizes = Counter(clusters)
    entropy = semantic_entropy(list(sizes.values()))
    highest = math.log(len(answers)) if entropy_high is None else entropy_high
    if not entropy_low < entropy < highest - _ROUNDING:
        return [0.0] * len(answers)
    shares = zip(answers, clusters, strict=True)
    return [0.0 if answer is None else sizes[own] / len(answers) for answer, own in shares]


_ROUNDING = 1e-9


def semantic_entropy(sizes: Sequence[int]) -> float:
    """-sum p ln p of clusters of these sizes, nats."""
    whole = sum(sizes)
    return -sum(size / whole * math.log(size / whole) for size in sizes)


def _final(text: str, marker: str | None) -> str | None:
    answer = stated_answer(text) if marker is None else by_marker(text, marker)
    return answer if answer and len(answer) <= LONGEST_ANSWER else None


async def _agree(model: Model, question: str, pair: tuple[str, str], max_tokens: int) -> bool:
    one, other = pair
    shown = instructed(TASK, quoted("question", question), quoted("answer A", one), quoted("answer B", other))
    (said, *_) = await model.generate(shown, max_tokens=max_tokens, seed=seed_of(question, one, other))
    return yes_in(said)


def _clusters(answers: Sequence[str], agreeing: Sequence[tuple[str, str]]) -> dict[str, str]:
    """For each answer the name of its cluster: who agrees with one that agrees is of the same."""
    name = {answer: answer for answer in answers}
    for one, other in agreeing:
        old, new = name[other], name[one]
        name = {answer: new if own == old else own for answer, own in name.items()}
    return {answer: f"answer {own}" for answer, own in name.items()}
