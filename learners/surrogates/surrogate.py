"""What a surrogate loss is given, what it returns, and the registry of all of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

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

    @property
    def log_ratio(self) -> Tensor:
        """[N] log rho = logp - logp_old, with gradient."""
        return self.logprobs - self.old_logprobs

    def sequence_mean(self, values: Tensor) -> Tensor:
        """[N] mean of the values of each token's answer, at each of its tokens."""
        if not values.numel():
            return values
        lengths = torch.bincount(self.sequence)
        total = values.new_zeros(lengths.numel()).index_add(0, self.sequence, values)
        return (total / lengths.clamp(min=1))[self.sequence]


Surrogate = Callable[..., tuple[Tensor, Mapping[str, Tensor]]]
"""From a `SurrogateInput`, and options by keyword, to the loss [N] and what happened per token, [N] each, by name:
`ratio` always, and `clipped_low`, `clipped_high` (1 where a bound took gradient away) where there is a bound."""
SURROGATES: Registry[Surrogate] = Registry("algorithm.surrogate")


def clip_record(ratio: Tensor, low: Tensor, high: Tensor) -> dict[str, Tensor]:
    """The record of a surrogate with bounds; `low` and `high` say where each took gradient away."""
    return {"ratio": ratio.detach(), "clipped_low": low.float(), "clipped_high": high.float()}
