"""Sums and means of per-token values over the sequence that each token belongs to.

Both take [N] values and [N] int64 indices of their sequences, and give each token its sequence's: [N], with gradient.
"""

import torch
from torch import Tensor


def sequence_sum(values: Tensor, sequence: Tensor) -> Tensor:
    """Sum over each token's sequence, at each of its tokens."""
    if not values.numel():
        return values
    total = values.new_zeros(int(sequence.max()) + 1).index_add(0, sequence, values)
    return total[sequence]


def sequence_mean(values: Tensor, sequence: Tensor) -> Tensor:
    """Mean over each token's sequence, at each of its tokens."""
    if not values.numel():
        return values
    return sequence_sum(values, sequence) / torch.bincount(sequence)[sequence]
