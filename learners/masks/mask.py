"""What a mask is given, and the registry of all of them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from learners.logprobs import Moments
from learners.registry import Registry


@dataclass(frozen=True, slots=True, eq=False)
class MaskInput:
    """All tensors [N], N the trained tokens of a micro-batch that the policy wrote itself, without gradient.

    Attributes:
        logprobs: of the sampled tokens under the weights being trained; old_logprobs: see `SurrogateInput`.
        entropy: of each token's distribution under them, in nats.
        advantages: of each token.
        moments: of each token's distribution; attention: how widely it looks back (`learners.attention_watch`), in
            [0, 1]; None but for a mask that needs them (`learners.needs`).
    """

    logprobs: Tensor
    old_logprobs: Tensor
    entropy: Tensor
    advantages: Tensor
    moments: Moments | None = None
    attention: Tensor | None = None


Mask = Callable[..., Tensor]
"""From a `MaskInput`, and options by keyword, to the weight of each token, [N], at least 0."""
MASKS: Registry[Mask] = Registry("algorithm.masks")


def drawn(given: MaskInput, seed: int) -> Tensor:
    """[N] numbers drawn evenly from [0, 1): the same for the same seed and tokens, and others for others."""
    content = int(given.old_logprobs.double().sum().abs().item() * 1e6)
    generator = torch.Generator().manual_seed(seed * 1_000_003 + content)
    return torch.rand(given.logprobs.shape, generator=generator).to(given.logprobs.device)
