"""How losses per token become one number: every token alike, or every answer alike.

The divisors are counts over the whole batch of one optimizer step, on all ranks. So the sum of the results
over micro-batches and ranks is the batch's loss, however it was cut.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class BatchCounts:
    """Trained tokens, and sequences with at least one, in the whole batch of an optimizer step."""

    tokens: int
    sequences: int


class Aggregation(Protocol):
    def __call__(self, loss: Tensor, sequence: Tensor, counts: BatchCounts) -> Tensor:
        """Join losses of trained tokens.

        Args:
            loss: [N]; sequence: [N] index of each token's sequence within this micro-batch, which holds all
                trained tokens of each of its sequences.
            counts: of the whole batch.

        Returns: scalar, this micro-batch's share.
        """


def token_mean(loss: Tensor, sequence: Tensor, counts: BatchCounts) -> Tensor:
    """sum_i sum_t loss_it / sum_i |o_i|: token-level loss (DAPO, arXiv 2503.14476, section 3.3)."""
    return loss.sum() / counts.tokens


def sequence_mean(loss: Tensor, sequence: Tensor, counts: BatchCounts) -> Tensor:
    """mean_i of (sum_t loss_it / |o_i|): sample-level loss, as GRPO writes it (arXiv 2402.03300, equation
    3)."""
    lengths = torch.bincount(sequence).to(loss.dtype)
    return (loss / lengths[sequence]).sum() / counts.sequences


AGGREGATIONS: Mapping[Literal["token", "sequence"], Aggregation] = {
    "token": token_mean,
    "sequence": sequence_mean,
}
