"""Terms that keep a policy from becoming certain too soon."""

import torch
from torch import Tensor

from learners.covariance import covariance
from learners.terms.term import TermInput, term


@term("entropy")
def entropy(given: TermInput) -> Tensor:
    """-H, H = -sum_a p log p over the whole vocabulary: an entropy bonus (A3C, arXiv 1602.01783, section 4)."""
    return -given.entropy


@term("entropy_band")
def entropy_band(given: TermInput, *, low: float = 0.1, high: float = 1.0) -> Tensor:
    """max(low - H, 0) + max(H - high, 0): acts on tokens whose entropy, in nats, leaves the band from low to high.

    The bonus of arXiv 1602.01783 where a distribution is too sharp, its opposite where it is too flat, and nothing
    between.

    Raises:
        ValueError: low is above high.
    """
    if low > high:
        raise ValueError(f"low={low} must not be above high={high}")
    return (low - given.entropy).clamp(min=0) + (given.entropy - high).clamp(min=0)


@term("kl_cov", compares=True)
def kl_cov(given: TermInput, *, share: float = 0.002) -> Tensor:
    """|d| on the share of tokens whose logprob and advantage vary together most: KL-Cov (arXiv 2505.22617, section 4).

    Entropy falls by what Cov(logp, A) is: cov_t = (logp_t - mean logp) (A_t - mean A), means over the micro-batch. The
    few tokens with the greatest cov_t are held close to the policy that the term compares with.

    Raises:
        ValueError: the share is not in (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"share={share} must be in (0, 1]")
    d = given.log_ratio.abs()
    if not d.numel():
        return d
    return d * _covary(given, share).to(d.dtype)


def _covary(given: TermInput, share: float) -> Tensor:
    """[N] bool: the tokens, at least one, of the greatest covariance."""
    together = covariance(given.logprobs.detach(), given.advantages)
    count = max(1, round(share * together.numel()))
    chosen = torch.zeros_like(together, dtype=torch.bool)
    chosen[together.topk(count).indices] = True
    return chosen
