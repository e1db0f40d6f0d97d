"""Log-probabilities of chosen tokens from hidden states, without ever holding all logits.

The head's product and the softmax run over chunks of tokens; the backward pass computes each chunk's logits
again. So memory is chunk x V, not N x V, for the price of one more product with the head.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

CHUNK_ELEMENTS = 1 << 24
"""Float32 logits held at once (64 MiB); the chunk's token count follows from the vocabulary's size."""


class Moments(NamedTuple):
    """Of each token's distribution p over the vocabulary, without gradient, [N] float32 each.

    Attributes:
        mean_logprob: mean_a log p(a), the uniform policy's.
        square: sum_a p(a)^2; cube: sum_a p(a)^3.
        feature: |h|^2 of the hidden state over temperature^2: how far a step on the head moves the scaled logits.
    """

    mean_logprob: Tensor
    square: Tensor
    cube: Tensor
    feature: Tensor


class TokenLogprobs(NamedTuple):
    """Per predicted token, differentiable: `logprobs` [N] float32; `entropy` [N] float32 of the whole distribution, in
    nats. An entropy that no loss uses costs nothing in the backward pass. `moments` where they were asked for."""

    logprobs: Tensor
    entropy: Tensor
    moments: Moments | None = None


def chunked_logprobs(
    hidden: Tensor,
    head_weight: Tensor,
    head_bias: Tensor | None,
    targets: Tensor,
    *,
    temperature: float = 1.0,
    moments: bool = False,
    chunk_elements: int = CHUNK_ELEMENTS,
) -> TokenLogprobs:
    """log softmax(head(hidden) / temperature) at `targets`.

    The product runs in the dtype of its inputs, everything after it in float32: as inference engines do.

    Args:
        hidden: [N, d]; head_weight: [V, d]; head_bias: [V] or None; targets: [N] int64.
        temperature: what the logits are divided by; behaviour logprobs are of the distribution at the
            sampling temperature, and only logprobs at the same one compare with them.
        moments: whether they are wanted too.

    Raises:
        ValueError: the temperature is not positive.
    """
    if temperature <= 0:
        raise ValueError(f"temperature {temperature} has no logprobs: sample at one above 0 to train on the answers")
    chunk = max(1, chunk_elements // head_weight.shape[0])
    logprobs, entropy, table = _ChunkedLogprobs.apply(
        hidden, head_weight, head_bias, targets, temperature, chunk, moments
    )
    if not moments:
        return TokenLogprobs(logprobs, entropy)
    feature = hidden.detach().float().square().sum(-1) / temperature**2
    mean_logprob, square, cube = table
    return TokenLogprobs(logprobs, entropy, Moments(mean_logprob, square, cube, feature))


def _scaled_logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float) -> Tensor:
    logits = torch.nn.functional.linear(hidden, weight, bias).float()
    return logits if temperature == 1.0 else logits.div_(temperature)


class _ChunkedLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        temperature: float,
        chunk: int,
        moments: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        count = hidden.shape[0]
        logprobs = hidden.new_empty(count, dtype=torch.float32)
        entropy = torch.empty_like(logprobs)
        normaliser = torch.empty_like(logprobs)
        table = logprobs.new_empty((3, count if moments else 0))
        for start in range(0, count, chunk):
            rows = slice(start, min(start + chunk, count))
            logits = _scaled_logits(hidden[rows], weight, bias, temperature)
            total = logits.logsumexp(-1)
            normaliser[rows] = total
            logprobs[rows] = logits.gather(-1, targets[rows, None]).squeeze(-1) - total
            probabilities = (logits - total[:, None]).exp_()
            entropy[rows] = total - torch.linalg.vecdot(probabilities, logits)
            if moments:
                table[0, rows] = logits.mean(-1) - total
                table[1, rows] = torch.linalg.vecdot(probabilities, probabilities)
                table[2, rows] = torch.linalg.vecdot(probabilities.square(), probabilities)
        ctx.save_for_backward(hidden, weight, bias, targets, normaliser, entropy)
        ctx.temperature, ctx.chunk = temperature, chunk  # type: ignore[attr-defined]
        ctx.set_materialize_grads(False)  # type: ignore[attr-defined]
        ctx.mark_non_differentiable(table)  # type: ignore[attr-defined]
        return logprobs, entropy, table

    @staticmethod
    def backward(ctx: FunctionCtx, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, normaliser, entropy = ctx.saved_tensors  # type: ignore[attr-defined]
        temperature: float = ctx.temperature  # type: ignore[attr-defined]
        chunk: int = ctx.chunk  # type: ignore[attr-defined]
        of_logprobs, of_entropy, _ = grads
        upstream = torch.zeros_like(normaliser) if of_logprobs is None else of_logprobs / temperature
        grad_hidden = torch.empty_like(hidden)
        # Summed over chunks in float32: bfloat16 would lose the small ones.
        grad_weight = torch.zeros_like(weight, dtype=torch.float32)
        grad_bias = None if bias is None else torch.zeros_like(bias, dtype=torch.float32)
        for start in range(0, hidden.shape[0], chunk):
            rows = slice(start, min(start + chunk, hidden.shape[0]))
            logits = _scaled_logits(hidden[rows], weight, bias, temperature)
            # d logprob / d logits = onehot(target) - p; d entropy / d logits = -p (log p + entropy)
            logits.sub_(normaliser[rows, None])
            pull = upstream[rows, None]
            if of_entropy is not None:
                pull = pull + (of_entropy[rows, None] / temperature) * (logits + entropy[rows, None])
            slope = logits.exp_().neg_().mul_(pull)
            slope.scatter_add_(-1, targets[rows, None], upstream[rows, None])
            narrow = slope.to(weight.dtype)
            grad_hidden[rows] = narrow @ weight
            grad_weight += narrow.T @ hidden[rows]
            if grad_bias is not None:
                grad_bias += slope.sum(0)
        return (
            grad_hidden,
            grad_weight.to(weight.dtype),
            None if grad_bias is None else grad_bias.to(weight.dtype),
            None,
            None,
            None,
            None,
        )
