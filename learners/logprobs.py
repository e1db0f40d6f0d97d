"""Log-probabilities of chosen tokens from hidden states, without ever holding all logits.

The head's product and the softmax run over chunks of tokens. The backward pass begins with the last chunk, whose
probabilities are still there, and computes the logits of the others again, one chunk at a time. So memory is
chunk x V, not N x V, for the price of one more product with the head where there is more than one chunk.
"""

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

CHUNK_ELEMENTS = {"cpu": 1 << 24, "cuda": 1 << 28}
"""Float32 logits held at once, by device (64 MiB, 1 GiB); a chunk's token count follows from the vocabulary's size."""

CHUNK_TOKENS = 256
"""Fewest tokens of a chunk: each adds to the whole gradient of the head, which few tokens do not repay."""


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
    nats. An entropy that no loss uses costs nothing in the backward pass. `moments`, and `attention` [N] float32
    (`learners.attention_watch`, of the token from which it is predicted), where they were asked for."""

    logprobs: Tensor
    entropy: Tensor
    moments: Moments | None = None
    attention: Tensor | None = None


def chunked_logprobs(
    hidden: Tensor,
    head_weight: Tensor,
    head_bias: Tensor | None,
    targets: Tensor,
    *,
    temperature: float = 1.0,
    moments: bool = False,
    chunk_elements: int | None = None,
) -> TokenLogprobs:
    """log softmax(head(hidden) / temperature) at `targets`.

    The product runs in the dtype of its inputs, everything after it in float32: as inference engines do.

    Args:
        hidden: [N, d]; head_weight: [V, d]; head_bias: [V] or None; targets: [N] int64.
        temperature: what the logits are divided by; behaviour logprobs are of the distribution at the
            sampling temperature, and only logprobs at the same one compare with them.
        moments: whether they are wanted too.
        chunk_elements: logits held at once; None is what suits the device.

    Raises:
        ValueError: the temperature is not positive.
    """
    if temperature <= 0:
        raise ValueError(f"temperature {temperature} has no logprobs: sample at one above 0 to train on the answers")
    vocabulary = head_weight.shape[0]
    if chunk_elements is None:
        chunk_elements = max(CHUNK_ELEMENTS.get(hidden.device.type, 0), CHUNK_TOKENS * vocabulary)
    chunk = max(1, chunk_elements // vocabulary)
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


def _chunks(count: int, size: int) -> list[slice]:
    """Of `size` tokens but for the first: the last is worth keeping."""
    bounds = [0, *range(count % size or size, count + 1, size)] if count else [0]
    return [slice(begin, end) for begin, end in pairwise(bounds)]


def _slope(probabilities: Tensor, of_logprob: Tensor, of_entropy: Tensor | None, entropy: Tensor) -> Tensor:
    """[n, V] gradient of the logits, but for the chosen tokens' own part, in place of the probabilities.

    d logprob / d logits = onehot(target) - p; d entropy / d logits = -p (log p + entropy).

    Args:
        of_logprob, of_entropy, entropy: [n, 1]; the second None where no loss uses the entropy.
    """
    if of_entropy is None:
        return probabilities.mul_(-of_logprob)
    surprise = torch.special.xlogy(probabilities, probabilities).mul_(of_entropy)
    return probabilities.mul_(-of_logprob - of_entropy * entropy).sub_(surprise)


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
        probabilities: Tensor | None = None
        for rows in _chunks(count, chunk):
            probabilities = None  # one chunk at a time
            logits = _scaled_logits(hidden[rows], weight, bias, temperature)
            top = logits.amax(-1, keepdim=True)
            probabilities = (logits - top).exp_()
            mass = probabilities.sum(-1, keepdim=True)
            probabilities.div_(mass)
            total = top + mass.log_()
            normaliser[rows] = total.squeeze(-1)
            logprobs[rows] = (logits.gather(-1, targets[rows, None]) - total).squeeze(-1)
            entropy[rows] = total.squeeze(-1) - torch.linalg.vecdot(probabilities, logits)
            if moments:
                table[0, rows] = logits.mean(-1) - total.squeeze(-1)
                table[1, rows] = torch.linalg.vecdot(probabilities, probabilities)
                table[2, rows] = torch.linalg.vecdot(probabilities.square(), probabilities)
            del logits
        ctx.save_for_backward(hidden, weight, bias, targets, normaliser, entropy)
        ctx.temperature, ctx.chunk, ctx.last = temperature, chunk, probabilities  # type: ignore[attr-defined]
        ctx.set_materialize_grads(False)  # type: ignore[attr-defined]
        ctx.mark_non_differentiable(table)  # type: ignore[attr-defined]
        return logprobs, entropy, table

    @staticmethod
    def backward(ctx: FunctionCtx, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, normaliser, entropy = ctx.saved_tensors  # type: ignore[attr-defined]
        temperature: float = ctx.temperature  # type: ignore[attr-defined]
        kept: Tensor | None = ctx.last  # type: ignore[attr-defined]
        ctx.last = None  # type: ignore[attr-defined]  # used up below; a second backward pass computes it again
        of_logprobs, of_entropy = (None if grad is None else grad / temperature for grad in grads[:2])
        upstream = torch.zeros_like(normaliser) if of_logprobs is None else of_logprobs
        grad_hidden = torch.empty_like(hidden)
        # Summed over chunks in float32: bfloat16 would lose the small ones.
        _, trains_weight, trains_bias, *_ = ctx.needs_input_grad  # type: ignore[attr-defined]
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if trains_weight else None
        grad_bias = torch.zeros_like(bias, dtype=torch.float32) if trains_bias else None
        for rows in reversed(_chunks(hidden.shape[0], ctx.chunk)):  # type: ignore[attr-defined]
            probabilities, kept = kept, None
            if probabilities is None:
                logits = _scaled_logits(hidden[rows], weight, bias, temperature)
                probabilities = logits.sub_(normaliser[rows, None]).exp_()
            pull = None if of_entropy is None else of_entropy[rows, None]
            slope = _slope(probabilities, upstream[rows, None], pull, entropy[rows, None])
            slope.scatter_add_(-1, targets[rows, None], upstream[rows, None])
            narrow = slope.to(weight.dtype)
            grad_hidden[rows] = narrow @ weight
            if grad_weight is not None:
                _add_product(grad_weight, narrow.T, hidden[rows])
            if grad_bias is not None:
                grad_bias += slope.sum(0)
        return (
            grad_hidden,
            None if grad_weight is None else grad_weight.to(weight.dtype),
            None if grad_bias is None else grad_bias.to(weight.dtype),
            None,
            None,
            None,
            None,
        )


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left @ right, whatever the dtype of the two."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right
