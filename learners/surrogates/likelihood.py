"""Likelihoods in place of policy gradients."""

import torch
from torch import Tensor

from learners.surrogates.surrogate import SURROGATES, SurrogateInput


@SURROGATES.register("nft")
def nft(given: SurrogateInput, *, eps: float = 1e-3, negatives: bool = True) -> tuple[Tensor, dict[str, Tensor]]:
    """Negative-aware fine-tuning: wrong answers train the policy through its implied opposite (arXiv 2505.18116).

    The old policy is a mixture of one that answers right, q of the time, and one that answers wrong. With pi for the
    first, the second is pi_old (1 - q R) / (1 - q), R = pi / pi_old, and both are fitted by likelihood, per token:

        r = 1:  -w v log R                  r = 0:  -w v log max((1 - q R) / (1 - q), eps)

    v = sqrt((1 - q) / q) gives GRPO's gradient where R = 1: sqrt((1 - q) / q) for right answers, -sqrt(q / (1 - q)) for
    wrong ones. The maximum passes its gradient straight through. Advantages are not read; `clip_low` and `clip_high`
    mean nothing here.

    Rewards must be 0 or 1, and groups of one kind dropped (`algorithm.drop_zero_variance`); such a group weighs 0.

    Args:
        eps: floor of the wrong answers' ratio.
        negatives: off, only right answers train: rejection-sampling fine-tuning with prompt weights.
    """
    share = given.group_rewards
    mixed = (share > 0) & (share < 1)
    q = share.where(mixed, torch.full_like(share, 0.5))
    weight = ((1 - q) / q).sqrt() * mixed
    ratio = given.log_ratio.exp()
    opposite = (1 - q * ratio) / (1 - q)
    floored = opposite.detach().clamp(min=eps) + (opposite - opposite.detach())
    right = given.rewards > 0.5
    gain = given.log_ratio.where(right, floored.log() if negatives else torch.zeros_like(ratio))
    seen = {"ratio": ratio.detach(), "clipped_high": (~right & (opposite.detach() < eps) & mixed).float()}
    return -given.weights * weight * gain, seen
