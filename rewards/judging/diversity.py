"""The `sd_e2` term: several ways to a right answer, found without waste."""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from statistics import fmean, pstdev

from rewards.group import Group
from rewards.judging.credit import steps_of
from rewards.judging.votes import check_votes
from rewards.models.asking import Models
from rewards.models.quoting import harmless
from rewards.registry import Example, group_term, refusing_options
from rewards.response import Response

FURTHEST = 2.0
"""Standard deviations at which a component is cut, so that no diversity outweighs being right."""
MOST_STRATEGIES = 16
LONGEST_STRATEGY = 2000
"""Characters of a strategy that are embedded."""
_TEXTS = ("count up\n\nadd", "add")
_EXAMPLE = Group(
    tuple(Response(f"e/{n}", "", text, response_tokens=4) for n, text in enumerate(_TEXTS)), ({"math": 1.0},) * 2
)


@group_term(
    "sd_e2",
    example=Example(
        _EXAMPLE,
        (
            {"correct": 0.0, "diversity": 0.3, "efficiency": 0.0},
            {"correct": 0.0, "diversity": -0.3, "efficiency": 0.0},
        ),
        replies=(((1.0, 0.0), (0.0, 1.0), (0.0, 1.0)),),
    ),
)
async def sd_e2(
    group: Group,
    *,
    models: Models,
    model: str = "embedder",
    correct: float = 1.0,
    diversity: float = 0.3,
    efficiency: float = 0.1,
    distinct: float = 0.1,
    of: str | None = None,
    correct_at: float = 1.0,
) -> list[Mapping[str, float]]:
    """correct z(right) + diversity z(coverage + mean dissimilarity) + efficiency z(-tokens): in the manner of SD-E^2,
    where z is (x - mean) / std over the group, cut at 2, and 0 where all are equal. Strategies are the paragraphs of an
    answer; coverage counts those that differ from all before them, and dissimilarity is the mean of 1 - cosine over
    pairs. It is the whole reward: give the correctness term the weight 0.

    The weights must keep a wrong answer from outranking a right one: correct > 2 (diversity + efficiency).

    Args:
        model: name in `reward.models` of a model that embeds.
        distinct: 1 - cosine from which two strategies differ.
        of: the term, as logged, that says what is right; None takes the recipe's first.
        correct_at: what counts as right.

    Raises: ValueError where the responses carry no token counts.
    """
    with refusing_options():
        if min(diversity, efficiency) < 0 or correct <= 2 * (diversity + efficiency):
            raise ValueError(
                f"correct={correct:g} must be above 2 (diversity={diversity:g} + efficiency={efficiency:g}), all at "
                "least 0: else wrong and diverse outranks right"
            )
        check_votes(strategies=MOST_STRATEGIES)
    strategies = [_strategies(response.text) for response in group.responses]
    texts = [text for own in strategies for text in own]
    vectors = iter(await models[model].embed(texts) if texts else ())
    spread = [_spread([next(vectors) for _ in own], distinct) for own in strategies]
    right = _z([float(one) for one in group.correct(of, correct_at)])
    parts = zip(right, _z(spread), _z([-float(length) for length in group.lengths]), strict=True)
    return [{"correct": correct * r, "diversity": diversity * d, "efficiency": efficiency * e} for r, d, e in parts]


def _strategies(text: str) -> list[str]:
    steps = steps_of(text)[:MOST_STRATEGIES]
    return [harmless(text[start : min(stop, start + LONGEST_STRATEGY)]) for start, stop in steps]


def _spread(vectors: Sequence[Sequence[float]], distinct: float) -> float:
    """Coverage and mean dissimilarity of an answer's strategies together; 1 where all are one."""
    kept: list[Sequence[float]] = []
    for vector in vectors:
        if all(_apart(vector, other) >= distinct for other in kept):
            kept.append(vector)
    apart = [_apart(one, other) for one, other in combinations(vectors, 2)]
    return len(kept) + (fmean(apart) if apart else 0.0)


def _apart(one: Sequence[float], other: Sequence[float]) -> float:
    """1 - cosine; 1 from a vector without a direction."""
    lengths = math.hypot(*one) * math.hypot(*other)
    return 1.0 if lengths == 0 else 1.0 - sum(a * b for a, b in zip(one, other, strict=True)) / lengths


def _z(values: Sequence[float]) -> list[float]:
    spread = pstdev(values) if values else 0.0
    if spread < 1e-9:
        return [0.0] * len(values)
    mean = fmean(values)
    return [max(-FURTHEST, min(FURTHEST, (value - mean) / spread)) for value in values]
