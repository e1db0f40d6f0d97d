"""Masks that keep a policy from becoming certain too soon, and one that shows what a choice of tokens is worth."""

import torch
from torch import Tensor

from learners.covariance import covariance
from learners.masks.mask import MASKS, MaskInput, drawn


@MASKS.register("clip_cov")
def clip_cov(given: MaskInput, *, share: float = 2e-4, low: float = 1.0, high: float = 5.0, seed: int = 0) -> Tensor:
    """0 on a share of all tokens, drawn from those whose covariance of logprob and advantage lies in [low, high], else
    1: Clip-Cov (arXiv 2505.22617, section 4).

    The tokens of a great covariance make the entropy fall; the gradient of some of them is left out. Of fewer than
    `share` of all in the band, every one is.

    Args:
        share: of all tokens of the micro-batch, in [0, 1].
        low, high: band of (logp_t - mean logp) (A_t - mean A), means over the micro-batch.
        seed: of the draw.
    """
    if not (0 <= share <= 1 and low <= high):
        raise ValueError(f"share={share} must be in [0, 1] and low={low} at most high={high}")
    weight = torch.ones_like(given.logprobs)
    if not weight.numel():
        return weight
    together = covariance(given.logprobs, given.advantages)
    inside = (together >= low) & (together <= high)
    count = min(round(share * weight.numel()), int(inside.sum()))
    # Those outside of the band are drawn last.
    order = (drawn(given, seed) + (~inside).float()).argsort()
    weight[order[:count]] = 0
    return weight


@MASKS.register("high_entropy")
def high_entropy(given: MaskInput, *, share: float = 0.2) -> Tensor:
    """1 on the share of tokens with the highest entropy, else 0: forking tokens alone train (arXiv 2506.01939).

    Args:
        share: of the micro-batch's tokens, in (0, 1]; at least one trains.
    """
    _check_share(share)
    weight = torch.zeros_like(given.entropy)
    if weight.numel():
        weight[given.entropy.topk(max(1, round(share * weight.numel()))).indices] = 1
    return weight


@MASKS.register("random_tokens")
def random_tokens(given: MaskInput, *, share: float = 0.2, seed: int = 0) -> Tensor:
    """1 / share on each token with this chance, else 0: the same gradient on average from fewer tokens (derived).

    The control for every choice of tokens: a fifth of them, drawn at random, keeps much of what all bring (title "Not
    All Tokens Learn Alike").

    Args:
        share: chance of a token to train, in (0, 1].
        seed: of the draw.
    """
    _check_share(share)
    return (drawn(given, seed) < share).to(given.logprobs.dtype) / share


def _check_share(share: float) -> None:
    if not 0 < share <= 1:
        raise ValueError(f"share={share} must be in (0, 1]")
