"""Causal attention for batches of short sequences on the CPU: plain matrix products over blocks that stay in cache.

PyTorch's CPU flash kernel streams over keys to avoid the [L, L] scores. For answers of a few hundred tokens those are
small, and its backward pass is then several times slower than products that use the CPU's matrix units, above all in
bfloat16. Here the probabilities are kept for the backward pass: L x H numbers a token, less than a layer's other
activations as long as L is short (`MAX_LENGTH`).

Scores are rounded to the input's dtype before the softmax, as transformers' eager attention does.
"""

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

MAX_LENGTH = {torch.bfloat16: 384, torch.float32: 128}
"""Longest padded length at which this beats the flash kernel, by dtype."""

_BLOCK = 16
"""Matrices of one head and sequence handled at once."""


def short_attention(query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
    """softmax(scaling q k' + causal mask) v.

    Args:
        query, key, value: [B, L, D], B = sequences x heads, contiguous.

    Returns: [B, L, D].
    """
    output: Tensor = _ShortAttention.apply(query, key, value, scaling)
    return output


class _ShortAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        batch, length, _ = query.shape
        output = torch.empty_like(query)
        weights = query.new_empty(batch, length, length)
        future = torch.full((length, length), -torch.inf, dtype=query.dtype).triu_(1)
        for start in range(0, batch, _BLOCK):
            at = slice(start, start + _BLOCK)
            scores = torch.baddbmm(future, query[at], key[at].transpose(1, 2), alpha=scaling)
            torch.softmax(scores, -1, out=weights[at])
            torch.bmm(weights[at], value[at], out=output[at])
        ctx.save_for_backward(query, key, value, weights)
        ctx.scaling = scaling  # type: ignore[attr-defined]
        return output

    @staticmethod
    def backward(ctx: FunctionCtx, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query, key, value, weights = ctx.saved_tensors  # type: ignore[attr-defined]
        scaling: float = ctx.scaling  # type: ignore[attr-defined]
        grad = grads[0].contiguous()
        grad_query, grad_key, grad_value = (torch.empty_like(part) for part in (query, key, value))
        for start in range(0, query.shape[0], _BLOCK):
            at = slice(start, start + _BLOCK)
            torch.bmm(weights[at].transpose(1, 2), grad[at], out=grad_value[at])
            slope = torch.bmm(grad[at], value[at].transpose(1, 2))
            # d softmax: w * (slope - sum(w * slope))
            slope = torch._softmax_backward_data(slope, weights[at], -1, weights.dtype).mul_(scaling)
            torch.bmm(slope, key[at], out=grad_query[at])
            torch.bmm(slope.transpose(1, 2), query[at], out=grad_key[at])
        return grad_query, grad_key, grad_value, None
