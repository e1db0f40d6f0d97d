"""Surrogate losses: from log-probabilities and advantages to a loss per trained token.

Pure functions from a frozen input to (loss [N], what happened per token), chosen by name (`SURROGATES`).
They neither
mask nor reduce: N counts trained tokens alone, and `learners.aggregation` joins them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from learners.registry import Registry


@dataclass(frozen=True, slots=True, eq=False)
class SurrogateInput:
    """All tensors [N] float32; only `logprobs` carries gradient.

    Attributes:
        logprobs: of the sampled tokens under the weights being trained.
        old_logprobs: under the weights that the trust region is centred on (the proximal policy).
        advantages: of each token.
        weights: importance correction of each token (`learners.correction`).
        clip_low, clip_high: half-widths of the trust region below and above a ratio of 1.
    """

    logprobs: Tensor
    old_logprobs: Tensor
    advantages: Tensor
    weights: Tensor
    clip_low: float = 0.2
    clip_high: float = 0.28


Surrogate = Callable[[SurrogateInput], tuple[Tensor, Mapping[str, Tensor]]]
SURROGATES: Registry[Surrogate] = Registry("algorithm.surrogate")


@SURROGATES.register("ppo_clip")
def ppo_clip(given: SurrogateInput) -> tuple[Tensor, dict[str, Tensor]]:
    """-w * min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A), rho = exp(logp - logp_old).

    PPO (arXiv 1707.06347, equation 7) with the separate bounds of clip-higher (DAPO, arXiv 2503.14476,
    equation 10); the weight w makes it the decoupled objective of arXiv 2110.00641 when `old_logprobs` are
    not the behaviour's.

    Returns:
        the loss, and `ratio`, `clipped_low`, `clipped_high` (1 where the bound stopped the gradient).
    """
    ratio = (given.logprobs - given.old_logprobs).exp()
    bounded = ratio.clamp(1 - given.clip_low, 1 + given.clip_high)
    gain = (ratio * given.advantages).minimum(bounded * given.advantages)
    seen = ratio.detach()
    return -given.weights * gain, {
        "ratio": seen,
        "clipped_low": ((seen < 1 - given.clip_low) & (given.advantages < 0)).float(),
        "clipped_high": ((seen > 1 + given.clip_high) & (given.advantages > 0)).float(),
    }


@SURROGATES.register("reinforce")
def reinforce(given: SurrogateInput) -> tuple[Tensor, dict[str, Tensor]]:
    """-w * A * logp (Williams 1992): the plain policy gradient, without a trust region.

    Returns:
        the loss, and `ratio` as `ppo_clip` defines it, for the record.
    """
    ratio = (given.logprobs.detach() - given.old_logprobs).exp()
    return -given.weights * given.advantages * given.logprobs, {"ratio": ratio}
