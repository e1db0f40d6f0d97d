"""RLPR by hand: aggregates, debiasing, and what happens where there is nothing to go by."""

import math

import pytest

from rewards.reference_likelihood import probability, rlpr_reward
from rewards.response import Likelihood, Response


def seen(reasoned: tuple[float, ...], bare: tuple[float, ...]) -> Response:
    """A response whose reference's tokens have these probabilities."""
    logs = [tuple(map(math.log, probabilities)) for probabilities in (reasoned, bare)]
    return Response("s", "q", "", "4", likelihood=Likelihood(logs[0], logs[1], 3))


def test_mean_and_product_of_probabilities() -> None:
    logprobs = (math.log(0.9), math.log(0.1))
    assert probability(logprobs, "mean") == pytest.approx(0.5)
    assert probability(logprobs, "product") == pytest.approx(0.09)
    assert probability(logprobs, "mean_log") == pytest.approx(0.3)


def test_what_reasoning_adds_counts_and_what_it_costs_is_nothing() -> None:
    assert rlpr_reward(seen((0.9, 0.1), (0.2, 0.4))) == pytest.approx(0.5 - 0.3)
    assert rlpr_reward(seen((0.9, 0.1), (0.2, 0.4)), aggregate="product") == pytest.approx(0.09 - 0.08)
    assert rlpr_reward(seen((0.2, 0.2), (0.9, 0.1))) == 0.0
    assert rlpr_reward(seen((0.2, 0.2), (0.9, 0.1)), debias=False) == pytest.approx(0.2)


def test_an_answer_without_a_place_for_the_reference_earns_nothing() -> None:
    assert rlpr_reward(Response("s", "q", "", "4", likelihood=Likelihood((), (-1.0,)))) == 0.0


def test_a_reward_that_nobody_measured_says_so() -> None:
    with pytest.raises(ValueError, match=r"set rollout\.likelihood"):
        rlpr_reward(Response("s", "q", "text", "4"))
