"""How widely each token looks: the entropy of attention, read beside a forward pass that keeps no attention weights.

Fused kernels give no weights back, so scores are computed again from the queries and keys of each layer, without
gradient and a block of queries at a time. A pass that is watched costs about one more attention a layer.

Invariant: what a layer computes again for the backward pass (activation checkpointing) is not counted twice.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

BLOCK_ELEMENTS = 1 << 24
"""Scores held at once (64 MiB of float32)."""


class AttentionWatch:
    """Of one forward pass over a packed row."""

    def __init__(self) -> None:
        self._layers: dict[int, Tensor] = {}
        """[T] of each layer that was seen."""

    @torch.no_grad()
    def note(
        self,
        layer: int,
        queries: Sequence[Tensor],
        keys: Sequence[Tensor],
        slot: Tensor,
        *,
        scaling: float | None,
        window: int | None,
    ) -> None:
        """What a layer attends with.

        Args:
            queries, keys: [S, H, L, D] and [S, KV, L, D] of each right-padded batch of sequences.
            slot: [T] place of each token of the row among all S L of all batches (`learners.attention.PackedLayout`).
            scaling: of the scores; None is D^-1/2.
            window: tokens that a query sees, itself included; None for all before it.
        """
        if layer not in self._layers:
            spread = [attention_spread(q, k, scaling, window).flatten() for q, k in zip(queries, keys, strict=True)]
            self._layers[layer] = torch.cat(spread)[slot]

    def spread(self) -> Tensor:
        """[T] float32 in [0, 1]: mean over layers and heads; see `attention_spread`.

        Raises:
            RuntimeError: no layer was seen.
        """
        if not self._layers:
            raise RuntimeError("no attention was watched: the model does not attend by learners.attention")
        return torch.stack(list(self._layers.values())).mean(0)


def attention_spread(query: Tensor, key: Tensor, scaling: float | None = None, window: int | None = None) -> Tensor:
    """Entropy of each token's causal attention over its log number of positions, mean over heads: 0 where a token looks
    at one position, 1 where it looks at all alike. The first token of a sequence has no choice, and 0.

    Args:
        query: [S, H, L, D]; key: [S, KV, L, D], KV dividing H.
        scaling, window: see `AttentionWatch.note`.

    Returns: [S, L] float32.
    """
    count, heads, length, width = query.shape
    scale = width**-0.5 if scaling is None else scaling
    place = torch.arange(length, device=query.device)
    seen = (place + 1).clamp(max=window or length)
    total = query.new_zeros(count, length, dtype=torch.float32)
    block = max(1, BLOCK_ELEMENTS // (count * length))
    for head in range(heads):
        keys = key[:, head * key.shape[1] // heads].float()
        for start in range(0, length, block):
            at = slice(start, start + block)
            distance = place[at, None] - place[None, :]
            outside = (distance < 0) | (distance >= (window or length))
            scores = scale * query[:, head, at].float() @ keys.transpose(1, 2)
            logs = scores.masked_fill(outside, -torch.inf).log_softmax(-1)
            total[:, at] -= (logs.exp() * logs.masked_fill(outside, 0.0)).sum(-1)
    return total / heads / seen.log().clamp(min=torch.finfo(torch.float32).tiny)
