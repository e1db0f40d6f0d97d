"""How losses per token become one number: every token alike, or every answer alike.

Each way is a sum over micro-batches and ranks, divided by a count over the whole batch of one optimizer step. The
two are apart because the count may be known last: sums add up however a batch was cut, also where it came in parts.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class BatchCounts:
    """Trained tokens, sequences with at least one, and units of such sequences that stay together, on all ranks."""

    tokens: int = 0
    sequences: int = 0
    units: int = 0

    def __add__(self, other: "BatchCounts") -> "BatchCounts":
        return BatchCounts(self.tokens + other.tokens, self.sequences + other.sequences, self.units + other.units)


@dataclass(frozen=True, slots=True)
class Aggregation:
    """Attributes:
    total: from losses [N] of trained tokens and [N] the index of each token's sequence within the micro-batch, which
        holds all trained tokens of each of its sequences, to a scalar: this micro-batch's share of the sum.
    divisor: what the sum over the whole batch is divided by.
    """

    total: Callable[[Tensor, Tensor], Tensor]
    divisor: Callable[[BatchCounts], int]


def token_total(loss: Tensor, sequence: Tensor) -> Tensor:
    """sum_i sum_t loss_it."""
    return loss.sum()


def sequence_total(loss: Tensor, sequence: Tensor) -> Tensor:
    """sum_i (sum_t loss_it / |o_i|)."""
    lengths = torch.bincount(sequence).to(loss.dtype)
    return (loss / lengths[sequence]).sum()


AGGREGATIONS: Mapping[Literal["token", "sequence"], Aggregation] = {
    # Token-level loss: DAPO, arXiv 2503.14476, section 3.3.
    "token": Aggregation(token_total, lambda counts: counts.tokens),
    # Sample-level loss, as GRPO writes it: arXiv 2402.03300, equation 3.
    "sequence": Aggregation(sequence_total, lambda counts: counts.sequences),
}
