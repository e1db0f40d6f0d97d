"""Attention over packed sequences for transformers' models, on any device.

Linear layers see the packed row of T tokens, without padding. Attention alone needs the sequences apart:
here each is gathered into a right-padded batch, goes through PyTorch's SDPA with `is_causal` and no mask,
and is scattered back. Right padding is harmless under a causal mask (no real query sees a padded key, and
nothing reads a padded query), and leaving the mask out keeps SDPA's flash kernels, which accept none.
Sequences of similar length share a batch, so little of it is padding.

With flash-attn on a GPU, transformers' own `flash_attention_2` reads the cumulative lengths instead
(`best_attention`).

Where several ranks share a row, each attends over the whole of it with its share of the heads
(`learners.sequence_parallel`).

Either way what attention needs travels as keyword arguments of the model's forward (`attention_arguments`),
never as state of the model. Importing this module registers the implementation under the name `PACKED`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.utils import is_flash_attn_2_available

from learners import short_attention
from learners.attention_watch import AttentionWatch
from learners.packing import PackedSequences
from learners.sequence_parallel import RowShard

PACKED = "paceline_packed"
FLASH = "flash_attention_2"

_GROUP_RATIO = 0.75
"""A sequence shorter than this share of its batch's longest starts a new batch."""


@dataclass(frozen=True, slots=True, eq=False)
class PackedLayout:
    """Where each token of a packed row stands in the right-padded batches, P slots in all.

    Attributes:
        source: [P] token that each slot reads; padding slots read some token, and nothing reads them.
        slot: [T] slot of each token.
        groups: (sequences, padded length) of each batch; batches lie one after the other.
    """

    source: Tensor
    slot: Tensor
    groups: tuple[tuple[int, int], ...]


class AttentionArguments(TypedDict, total=False):
    """Keyword arguments of a model's forward: `packed_layout` for `PACKED`, with `row_shard` where several ranks share
    the row, and `attention_watch` where somebody wants to know how widely tokens look; the others for `FLASH`."""

    packed_layout: PackedLayout
    row_shard: RowShard
    attention_watch: AttentionWatch
    cu_seq_lens_q: Tensor
    cu_seq_lens_k: Tensor
    max_length_q: int
    max_length_k: int


def best_attention(
    device: torch.device, dtype: torch.dtype, *, shared_rows: bool = False, watched: bool = False
) -> str:
    """Name of the fastest exact implementation for packed rows of this compute type on this device.

    Args:
        shared_rows: whether several ranks share a row (`learners.sequence_parallel`).
        watched: whether passes will be watched (`learners.attention_watch`).
    """
    if shared_rows or watched:
        return PACKED
    half = dtype in (torch.bfloat16, torch.float16)
    return FLASH if device.type == "cuda" and half and is_flash_attn_2_available() else PACKED


def attention_arguments(
    packed: PackedSequences, attention: str, device: torch.device, shard: RowShard | None = None
) -> AttentionArguments:
    """What the model's forward must be given beside the packed row, for the named implementation.

    Args:
        shard: of this row; None where this rank reads all of it.

    Raises:
        ValueError: the implementation would mix the sequences of a row.
    """
    if attention == PACKED:
        layout = lay_out(packed.lengths, device)
        return {"packed_layout": layout} if shard is None else {"packed_layout": layout, "row_shard": shard}
    if attention == FLASH and shard is None:
        cu_seqlens = packed.cu_seqlens.to(device)
        return {
            "cu_seq_lens_q": cu_seqlens,
            "cu_seq_lens_k": cu_seqlens,
            "max_length_q": packed.max_len,
            "max_length_k": packed.max_len,
        }
    raise ValueError(f"attention {attention!r} cannot read packed rows: load the model with {PACKED!r} or {FLASH!r}")


def lay_out(lengths: Sequence[int], device: torch.device) -> PackedLayout:
    """Group sequences of similar length into right-padded batches, the longest first."""
    size = torch.tensor(lengths)
    start = size.cumsum(0) - size
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    slot = torch.empty(sum(lengths), dtype=torch.int64)
    sources: list[Tensor] = []
    groups: list[tuple[int, int]] = []
    first = begin = 0
    while begin < len(order):
        longest = lengths[order[begin]]
        end = begin + 1
        while end < len(order) and lengths[order[end]] >= _GROUP_RATIO * longest:
            end += 1
        rows = torch.tensor(order[begin:end])
        place = torch.arange(longest)
        source = start[rows][:, None] + torch.minimum(place, size[rows][:, None] - 1)
        real = place < size[rows][:, None]
        slot[source[real]] = first + real.flatten().nonzero().squeeze(1)
        sources.append(source.flatten())
        groups.append((end - begin, longest))
        first += (end - begin) * longest
        begin = end
    return PackedLayout(torch.cat(sources).to(device), slot.to(device), tuple(groups))


class _Pad(torch.autograd.Function):
    """[T, ...] -> [P, ...]. Backward is a gather: the gradient of a padding slot is exactly zero (module
    docstring)."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, packed: Tensor, source: Tensor, slot: Tensor) -> Tensor:
        ctx.save_for_backward(slot)
        return packed.index_select(0, source)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor, None, None]:
        (slot,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return grads[0].index_select(0, slot), None, None


class _Unpad(torch.autograd.Function):
    """[P, ...] -> [T, ...]. Backward writes zeros into the padding slots, which `_Pad` relies on."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, padded: Tensor, slot: Tensor) -> Tensor:
        ctx.save_for_backward(slot)
        ctx.slots = padded.shape[0]  # type: ignore[attr-defined]
        return padded.index_select(0, slot)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor, None]:
        (slot,) = ctx.saved_tensors  # type: ignore[attr-defined]
        padded = grads[0].new_zeros(ctx.slots, *grads[0].shape[1:])  # type: ignore[attr-defined]
        return padded.index_copy_(0, slot, grads[0]), None


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packed_layout: PackedLayout | None = None,
    row_shard: RowShard | None = None,
    attention_watch: AttentionWatch | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **__: object,
) -> tuple[Tensor, None]:
    """Causal attention within each sequence of a packed row; the signature is transformers'
    AttentionInterface.

    Args:
        query: [1, H, T, D]; key, value: [1, KV, T, D]; with a shard, of its tokens alone.
        packed_layout: of the whole row, from `attention_arguments`, through the model's forward.
        row_shard: which tokens of the row this rank holds; None for all.
        attention_watch: is shown the queries and keys.

    Returns:
        [1, T, H, D], and None for the attention weights.

    Raises:
        ValueError: no layout was passed, or the model needs a feature that SDPA lacks (soft-capped scores,
        sinks).
    """
    if packed_layout is None:
        raise ValueError(f"{PACKED} needs `packed_layout` in the model's forward: call it through learners.policy")
    if softcap is not None or s_aux is not None:
        raise ValueError("this model caps its attention scores or uses sinks: it needs flash-attn on a GPU")
    layout = packed_layout
    if row_shard is not None:
        query, key, value = (row_shard.to_heads(part) for part in (query, key, value))
    # Split, not sliced: the gradient of a split is one concatenation.
    sizes = [count * length for count, length in layout.groups]
    q, k, v = (
        _Pad.apply(part[0].transpose(0, 1), layout.source, layout.slot).split(sizes) for part in (query, key, value)
    )
    batches = [
        tuple(part.unflatten(0, shape).transpose(1, 2) for part in parts)
        for shape, *parts in zip(layout.groups, q, k, v, strict=True)
    ]
    if attention_watch is not None:
        queries, keys, _ = zip(*batches, strict=True)
        layer = int(module.layer_idx)
        attention_watch.note(layer, queries, keys, layout.slot, scaling=scaling, window=sliding_window)
    outputs = [
        _attend(
            *batch,
            scaling=scaling,
            dropout=dropout,
            window=sliding_window,
        )
        for batch in batches
    ]
    joined = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    output = _Unpad.apply(joined, layout.slot).unsqueeze(0)
    return output if row_shard is None else row_shard.to_tokens(output), None


def _attend(
    query: Tensor, key: Tensor, value: Tensor, *, scaling: float | None, dropout: float, window: int | None
) -> Tensor:
    """[S, H, L, D] -> [S * L, H, D]."""
    length = query.shape[2]
    band: Tensor | None = None
    if window is not None and window < length:
        place = torch.arange(length, device=query.device)
        distance = place[:, None] - place[None, :]
        band = (distance >= 0) & (distance < window)
    if band is None and not dropout and _is_short(query):
        return _attend_short(query, key, value, scaling)
    output = scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=band,
        is_causal=band is None,
        dropout_p=dropout,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return output.transpose(1, 2).flatten(0, 1)


def _is_short(query: Tensor) -> bool:
    return query.device.type == "cpu" and query.shape[2] <= short_attention.MAX_LENGTH.get(query.dtype, 0)


def _attend_short(query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
    """[S, H, L, D] -> [S * L, H, D]."""
    count, heads, length, width = query.shape
    if heads != key.shape[1]:
        key, value = (part.repeat_interleave(heads // part.shape[1], dim=1) for part in (key, value))
    query, key, value = (part.reshape(count * heads, length, width) for part in (query, key, value))
    output = short_attention.short_attention(query, key, value, width**-0.5 if scaling is None else scaling)
    return output.view(count, heads, length, width).transpose(1, 2).flatten(0, 1)


def _no_mask(*_: object, attention_mask: Tensor | None = None, **__: object) -> None:
    """The layout already keeps the sequences apart, so transformers need not build a [T, T] mask.

    Raises:
        ValueError: the caller passed a padding mask, which this implementation would ignore.
    """
    if attention_mask is not None:
        raise ValueError(f"{PACKED} takes packed rows without an attention mask")


AttentionInterface.register(PACKED, packed_attention)
AttentionMaskInterface.register(PACKED, _no_mask)
