"""How logprob and advantage of a token vary together: what entropy falls by (arXiv 2505.22617, section 3)."""

from torch import Tensor


def covariance(logprobs: Tensor, advantages: Tensor) -> Tensor:
    """[N] (logp_t - mean logp) (A_t - mean A), both [N], at least one; means over the micro-batch."""
    return (logprobs - logprobs.mean()) * (advantages - advantages.mean())
