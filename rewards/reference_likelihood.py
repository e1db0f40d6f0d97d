"""A reward without a verifier: how likely the policy finds the reference after its own reasoning."""

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Literal

from rewards.registry import Example, term
from rewards.response import Likelihood, Response

Aggregate = Literal["mean", "product", "mean_log"]


@term(
    "rlpr",
    example=Example(
        Response("e", "", "2 + 2 <answer>4", "4", likelihood=Likelihood((math.log(0.75),), (math.log(0.5),))), 0.25
    ),
)
def rlpr_reward(response: Response, *, aggregate: Aggregate = "mean", debias: bool = True) -> float:
    """clip(r - r', 0, 1), r the mean probability of the reference's tokens in the place of the answer, behind the
    answer's own reasoning, and r' the same without any reasoning: RLPR (arXiv 2506.18254). 0.0 where the text has no
    place for an answer.

    The engines say how likely, under one weight version for all answers of a group: `rollout.likelihood`.

    Args:
        aggregate: `mean` of the tokens' probabilities; `product`, the probability of the whole reference; or
            `mean_log`, the geometric mean by token.
        debias: take r' off.
    """
    found = response.likelihood
    if found is None:
        raise ValueError("nobody measured how likely the reference is: set rollout.likelihood, and data with answers")
    if not found.reasoned:
        return 0.0
    gain = probability(found.reasoned, aggregate) - (probability(found.bare, aggregate) if debias else 0.0)
    return min(max(gain, 0.0), 1.0)


def probability(logprobs: Sequence[float], aggregate: Aggregate) -> float:
    """Of a text, from the logprobs of its tokens, at least one."""
    if aggregate == "mean":
        return fmean(map(math.exp, logprobs))
    return math.exp(math.fsum(logprobs) if aggregate == "product" else fmean(logprobs))
