"""Kullback-Leibler divergence from the trained policy to another one, estimated from the sampled tokens.

d = logp - logp_other of a token that the trained policy sampled. k1, k2 and k3 estimate KL(policy || other) (Schulman,
"Approximating KL divergence", 2020). As losses they differ: what counts is the gradient, and on-policy its expectation
is 0 for k1, that of the reverse KL for k2, and that of the forward KL(other || policy) for k3 (derived; a test
enumerates it).
"""

import torch
from torch import Tensor

from learners.by_sequence import sequence_sum
from learners.terms.term import TermInput, term


@term("kl_k1", compares=True)
def kl_k1(given: TermInput) -> Tensor:
    """d: unbiased as a number; as a loss it pulls nowhere on average (Schulman 2020). See `kl_reward`."""
    return given.log_ratio


@term("kl_k2", compares=True)
def kl_k2(given: TermInput) -> Tensor:
    """d^2 / 2, whose gradient d grad logp is on average that of KL(policy || other) (Schulman 2020).

    Against a teacher it is KDRL's term (arXiv 2506.02208), and alone, with `algorithm.policy_weight=0`, on-policy
    distillation (GKD, arXiv 2306.13649, with students' samples and the reverse divergence).
    """
    return given.log_ratio.square() / 2


@term("kl_k3", compares=True)
def kl_k3(given: TermInput) -> Tensor:
    """exp(-d) - 1 + d: never negative, GRPO's choice (DeepSeekMath, arXiv 2402.03300, equation 4).

    Its gradient (1 - exp(-d)) grad logp is on average that of KL(other || policy).
    """
    d = given.log_ratio
    return torch.exp(-d) - 1 + d


@term("kl_reward", compares=True)
def kl_reward(given: TermInput, *, to_go: bool = False) -> Tensor:
    """sg(d) logp: the penalty -d as a reward of its token, as in RLHF (InstructGPT, arXiv 2203.02155, equation 2).

    Args:
        to_go: every token also answers for the penalties of the tokens behind it in its answer: sg(sum_(s >= t) d_s)
            logp_t, the policy gradient of the summed penalty, of more variance.
    """
    d = given.log_ratio.detach()
    return (_to_go(d, given.sequence) if to_go else d) * given.logprobs


def _to_go(values: Tensor, sequence: Tensor) -> Tensor:
    """[N] sum of each value and those behind it in its own answer."""
    if not values.numel():
        return values
    # Tokens stand in the order of their answers: what came before an answer is the running sum at its first token.
    running = values.cumsum(0)
    first = torch.searchsorted(sequence, sequence)
    before = (running - values)[first]
    return sequence_sum(values, sequence) - (running - before) + values
