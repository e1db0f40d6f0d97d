"""Ranking terms: `ndcg`, `recall`, `reasonrank` and `rank_r1`, over lists of ids that a model puts in order.

The gold stands in the data's columns: ``relevant`` maps ids to gains, or lists the relevant ids, best first;
``candidates`` lists all ids that may be named.
"""

import math
import re
from collections.abc import Mapping, Sequence

from rewards.extraction import inside_last_tag
from rewards.matching.text import folded
from rewards.registry import Example, RefusedOptionError, term
from rewards.response import Json, Response
from rewards.verdict import TermValue

Gains = Mapping[str, float]
_SHAPE = re.compile(r"\s*<think>.*</think>\s*<answer>.*</answer>\s*", re.DOTALL)
_SEPARATOR = re.compile(r"\s*(?:>|,|\n)\s*")


def ndcg(ranked: Sequence[str], gains: Gains, k: int) -> float:
    """DCG@k / the best possible DCG@k, DCG = sum over ranks i from 1 of gain_i / log2(1 + i); 0 where no id has a gain
    (Jarvelin and Kekalainen 2002)."""
    best = _dcg(sorted(gains.values(), reverse=True)[:k])
    return _dcg([gains.get(item, 0.0) for item in ranked[:k]]) / best if best > 0 else 0.0


def recall(ranked: Sequence[str], gains: Gains, k: int) -> float:
    """Share of the relevant ids among the first k; 0 where none is relevant."""
    relevant = {item for item, gain in gains.items() if gain > 0}
    return len(relevant & set(ranked[:k])) / len(relevant) if relevant else 0.0


def rank_biased_overlap(ranked: Sequence[str], gold: Sequence[str], p: float = 0.9) -> float:
    """A_k p^k + (1 - p) / p sum over d of A_d p^d, A_d = shared ids among the first d of both / d, to the depth k of
    the shorter list (extrapolated RBO, Webber et al. 2010)."""
    depth = min(len(ranked), len(gold))
    total, agreement = 0.0, 0.0
    for d in range(1, depth + 1):
        agreement = len(set(ranked[:d]) & set(gold[:d])) / d
        total += agreement * p**d
    return agreement * p**depth + (1 - p) / p * total if depth else 0.0


def _dcg(gains: Sequence[float]) -> float:
    return sum(gain / math.log2(rank + 2) for rank, gain in enumerate(gains))


def listed(answer: str) -> list[str]:
    """The ids of `[3] > [1] > [2]`, `3, 1, 2`, or one on each line."""
    return [part.strip().strip("[]").strip() for part in _SEPARATOR.split(answer.strip()) if part.strip()]


_DATA: dict[str, Json] = {"relevant": {"d2": 1.0}, "candidates": ["d1", "d2", "d3"]}


@term(
    "ndcg",
    example=Example(Response("e", "", "<answer>[d1] > [d2] > [d3]</answer>", metadata=_DATA), 1 / math.log2(3)),
)
def ndcg_reward(response: Response, *, k: int = 10, invalid: float = 0.0) -> float:
    """NDCG@k of the list in the last ``<answer></answer>``; `invalid` where it names an id twice or no candidate."""
    ranked = _valid(response)
    return invalid if ranked is None else ndcg(ranked, _gains(response), _at(k))


@term("recall", example=Example(Response("e", "", "<answer>d1, d3</answer>", metadata=_DATA), 0.0, {"k": 2}))
def recall_reward(response: Response, *, k: int = 10, invalid: float = 0.0) -> float:
    """Recall@k of the list in the last ``<answer></answer>``; `invalid` as for `ndcg`."""
    ranked = _valid(response)
    return invalid if ranked is None else recall(ranked, _gains(response), _at(k))


@term(
    "reasonrank",
    example=Example(
        Response("e", "", "<think>d2 fits</think><answer>[d2] > [d1] > [d3]</answer>", metadata=_DATA), 1.2
    ),
)
def reasonrank_reward(response: Response, *, phi: float = 0.1, gamma: float = 0.1, k: int = 10) -> float:
    """NDCG@k + phi Recall@k + gamma RBO where the shape of the text and the list are right, 0 where the shape alone
    is, else -1: ReasonRank (arXiv 2508.07050).

    The shape is ``<think>..</think><answer>..</answer>``; a right list names every candidate once. RBO compares the
    list with the relevant ids, best first.
    """
    if not _SHAPE.fullmatch(response.text):
        return -1.0
    ranked, gains = _valid(response), _gains(response)
    if ranked is None or len(ranked) != len(_candidates(response)):
        return 0.0
    gold = sorted((item for item, gain in gains.items() if gain > 0), key=lambda item: -gains[item])
    return ndcg(ranked, gains, _at(k)) + phi * recall(ranked, gains, k) + gamma * rank_biased_overlap(ranked, gold)


@term(
    "rank_r1",
    example=Example(Response("e", "", "<think>the second</think><answer>[d2]</answer>", "d2"), 1.0),
)
def rank_r1_reward(response: Response) -> TermValue:
    """1.0 where ``<think>..</think><answer>[label]</answer>`` holds and the label is the reference, else 0.0: Rank-R1
    (arXiv 2503.06034)."""
    answer = inside_last_tag(response.text, "<answer>", "</answer>")
    if answer is None or response.reference is None or not _SHAPE.fullmatch(response.text):
        return 0.0
    return float(folded(answer.strip("[] ")) == folded(response.reference.strip("[] ")))


def _at(k: int) -> int:
    if k < 1:
        raise RefusedOptionError(f"k={k} must be at least 1")
    return k


def _gains(response: Response) -> Gains:
    relevant = response.metadata.get("relevant")
    if isinstance(relevant, dict):
        return {str(item): float(str(gain)) for item, gain in relevant.items()}
    if isinstance(relevant, list):
        return {str(item): 1.0 for item in relevant}
    raise ValueError("the data have no column 'relevant' with the relevant ids")


def _candidates(response: Response) -> set[str]:
    candidates = response.metadata.get("candidates")
    if not isinstance(candidates, list):
        raise ValueError("the data have no column 'candidates' with the ids to rank")
    return {str(item) for item in candidates}


def _valid(response: Response) -> list[str] | None:
    """The list, where it names candidates alone and none of them twice."""
    answer = inside_last_tag(response.text, "<answer>", "</answer>")
    ranked = [] if answer is None else listed(answer)
    right = bool(ranked) and len(set(ranked)) == len(ranked) and set(ranked) <= _candidates(response)
    return ranked if right else None
