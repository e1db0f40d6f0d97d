"""Losses of all answers to one prompt, each good or bad: no pairs are made."""

import torch
from torch import Tensor

from learners.preferences.preference import Groups, preference


@preference("kto", of="groups", compares=True)
def kto(
    given: Groups, *, beta: float = 0.1, good_weight: float = 1.0, bad_weight: float = 1.0
) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean over the answers of w_g sigmoid(beta (z - g)) if good, w_b sigmoid(beta (g - z)) if bad: KTO (arXiv
    2402.01306).

    g = log pi / pi_ref of an answer; z = max(0, mean g of the prompt's answers), without gradient, stands for the
    KL(pi || pi_ref) at that prompt. The paper's data are not the policy's own, so it estimates z from answers to other
    prompts; here they are samples of the policy (or of its recent past), and their mean is the estimate.

    Args:
        beta: as in `dpo`.
        good_weight, bad_weight: w_g and w_b, the paper's lambda_D and lambda_U.

    Raises:
        ValueError: beta is not above 0, or a weight below 0.
    """
    if beta <= 0 or min(good_weight, bad_weight) < 0:
        raise ValueError(
            f"beta={beta} must be above 0, good_weight={good_weight} and bad_weight={bad_weight} not below"
        )
    gain = given.gain
    anchor = given.unit_mean(gain.detach()).clamp(min=0)
    gap = beta * (gain - anchor[given.unit])
    sign = given.good.to(gap.dtype) * 2 - 1
    weight = torch.where(given.good, good_weight, bad_weight)
    loss = given.unit_mean(weight * torch.sigmoid(-sign * gap))
    seen = gain.detach()
    return loss, {"anchor": anchor, "good_gain": seen[given.good], "bad_gain": seen[~given.good]}


@preference("aft", of="groups", compares=False)
def aft(given: Groups, *, detach: bool = True) -> tuple[Tensor, dict[str, Tensor]]:
    """log(1 + sum over good p and bad n of exp(s_n - s_p)), s the mean logprob: AFT (arXiv 2309.02144).

    Every good answer is to score above every bad one of its prompt; a prompt with answers of one kind has loss 0.

    Args:
        detach: scores of bad answers take no gradient, so that they are not pushed down without a bound.
    """
    score = given.logprobs / given.tokens
    bad = score.detach() if detach else score
    compared = given.good[:, None] & ~given.good[None, :] & (given.unit[:, None] == given.unit[None, :])
    good_at, bad_at = compared.nonzero(as_tuple=True)
    gaps = (bad[bad_at] - score[good_at]).exp()
    summed = score.new_zeros(given.units).index_add(0, given.unit[good_at], gaps)
    seen = score.detach()
    return summed.log1p(), {"good_logprob": seen[given.good], "bad_logprob": seen[~given.good]}
