"""Weights by how widely a token's prediction looks back."""

import torch
from torch import Tensor

from learners.masks.mask import MASKS, MaskInput
from learners.needs import needs


@MASKS.register("attention_entropy")
@needs("attention")
def attention_entropy(given: MaskInput, *, strength: float = 1.0) -> Tensor:
    """exp(-strength h_t) over its mean, h_t in [0, 1] the entropy of attention from where the token is predicted, over
    the log of the positions in sight, mean over layers and heads (title "Not All Tokens Learn Alike"; the exponential
    is ours, the paper's weight could not be verified).

    Tokens that look at few places ("anchors") have steady gradients, those that look at many ("explorers") large and
    restless ones. The mean weight of a micro-batch is 1.

    Args:
        strength: above 0 anchors weigh more, below 0 explorers; 0 weighs all alike.
    """
    assert given.attention is not None, "it was asked for"
    if not given.attention.numel():
        return torch.ones_like(given.logprobs)
    weight = torch.exp(-strength * given.attention)
    return weight / weight.mean()
