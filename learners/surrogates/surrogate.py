"""What a surrogate loss is given, what it returns, and the registry of all of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from learners.logprobs import Moments
from learners.registry import Registry


@dataclass(frozen=True, slots=True, eq=False)
class SurrogateInput:
    """All tensors [N], N the trained tokens of a micro-batch, float32 but for `sequence`; only `logprobs` carries
    gradient.

    Attributes:
        logprobs: of the sampled tokens under the weights being trained.
        old_logprobs: under the weights that the trust region is centred on (the proximal policy).
        advantages: of each token.
        weights: importance correction of each token (`learners.correction`).
        sequence: int64, index of each token's answer within the micro-batch, which holds all its trained tokens.
        rewards: of each token's answer.
        group_rewards: mean reward of the answers to the same prompt.
        clip_low, clip_high: half-widths of the trust region below and above a ratio of 1.
        group: int64, index of each token's group within the micro-batch; of a surrogate that needs `whole_groups` it
            holds all trained answers of each.
        moments, old_moments: of each token's distribution, now and under the weights of `old_logprobs`; None but for a
            surrogate that needs `moments`.
    """

    logprobs: Tensor
    old_logprobs: Tensor
    advantages: Tensor
    weights: Tensor
    sequence: Tensor
    rewards: Tensor
    group_rewards: Tensor
    clip_low: float = 0.2
    clip_high: float = 0.28
    group: Tensor | None = None
    moments: Moments | None = None
    old_moments: Moments | None = None

    @property
    def log_ratio(self) -> Tensor:
        """[N] log rho = logp - logp_old, with gradient."""
        return self.logprobs - self.old_logprobs


Surrogate = Callable[..., tuple[Tensor, Mapping[str, Tensor]]]
"""From a `SurrogateInput`, and options by keyword, to the loss [N] and what happened per token, [N] each, by name:
`ratio` always, and `clipped_low`, `clipped_high` (1 where a bound took gradient away) where there is a bound."""
SURROGATES: Registry[Surrogate] = Registry("algorithm.surrogate")


def clip_record(ratio: Tensor, low: Tensor, high: Tensor) -> dict[str, Tensor]:
    """The record of a surrogate with bounds; `low` and `high` say where each took gradient away."""
    return {"ratio": ratio.detach(), "clipped_low": low.float(), "clipped_high": high.float()}


def clipped(given: SurrogateInput, ratio: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """-w min(ratio A, clip(ratio, 1 - clip_low, 1 + clip_high) A), and its record; `ratio` is [N], with gradient."""
    bounded = ratio.clamp(1 - given.clip_low, 1 + given.clip_high)
    gain = (ratio * given.advantages).minimum(bounded * given.advantages)
    return -given.weights * gain, clip_record(ratio, *pushed_out(given, ratio.detach()))


def pushed_out(given: SurrogateInput, ratio: Tensor) -> tuple[Tensor, Tensor]:
    """[N] each: beyond the lower and the upper bound, on the side that the advantage pushes to."""
    low = (ratio < 1 - given.clip_low) & (given.advantages < 0)
    high = (ratio > 1 + given.clip_high) & (given.advantages > 0)
    return low, high
