"""Preferences between the answers to one prompt. They belong with `algorithm.aggregation: sequence`."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from learners.by_sequence import sequence_mean, sequence_sum
from learners.needs import needs
from learners.surrogates.surrogate import SURROGATES, SurrogateInput


@SURROGATES.register("trpa")
@needs("whole_groups")
def trpa(
    given: SurrogateInput, *, beta_chosen: float = 0.1, beta_rejected: float = 0.1, gap: float = 0.0
) -> tuple[Tensor, dict[str, Tensor]]:
    """-log sigmoid(beta_chosen D_i - beta_rejected D_j), D = sum_t log rho_t, over pairs of a group in which answer i
    was rewarded more than j: trust-region preference approximation, TRPA (arXiv 2504.04524).

    DPO's loss (arXiv 2305.18290) with the policy that sampled as its reference: beta is the strength of the pull back
    to it, and so the trust region. A pair's loss falls to its two answers in halves, and a group of G answers with P
    pairs weighs G / P: `sequence` aggregation then gives the mean over answers of their group's mean pair loss. A group
    of one level has no pair, and no loss; an answer weighs by the mean of its tokens' correction. Advantages are not
    read; `clip_low` and `clip_high` mean nothing here.

    Args:
        beta_chosen, beta_rejected: above 0; apart, they weigh gains and losses differently (the paper's KTPO).
        gap: rewards differ by more than this between two levels, at least 0.
    """
    if min(beta_chosen, beta_rejected) <= 0 or gap < 0:
        raise ValueError(
            f"beta_chosen={beta_chosen} and beta_rejected={beta_rejected} must be above 0, gap={gap} at least 0"
        )
    assert given.group is not None, "the learner tells a surrogate that needs whole groups which are"
    answers, first = _first_tokens(given.sequence)
    drift = sequence_sum(given.log_ratio, given.sequence)[first]
    reward, group = given.rewards[first], given.group[first]
    weight = sequence_mean(given.weights, given.sequence)[first]
    better = (reward[:, None] - reward[None, :] > gap) & (group[:, None] == group[None, :])
    loss = -logsigmoid(beta_chosen * drift[:, None] - beta_rejected * drift[None, :]) * better
    shared = (loss.sum(1) + loss.sum(0)) / 2
    same = (group[:, None] == group[None, :]).to(loss.dtype)
    pairs = same @ better.sum(1).to(loss.dtype)
    per_answer = weight * shared * same.sum(1) / pairs.clamp(min=1)
    return per_answer[answers], {"ratio": given.log_ratio.detach().exp()}


def _first_tokens(sequence: Tensor) -> tuple[Tensor, Tensor]:
    """[N] number of each token's answer among those present, and [S] place of each answer's first token."""
    _, answers, lengths = torch.unique_consecutive(sequence, return_inverse=True, return_counts=True)
    return answers, lengths.cumsum(0) - lengths
