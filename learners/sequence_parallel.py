"""Ulysses sequence parallelism: n ranks share every packed row (DeepSpeed-Ulysses, arXiv 2309.14509).

A rank holds T / n neighbouring tokens of the row, and every layer but attention reads those alone. Around attention
an all-to-all turns [T / n tokens, all H heads] into [all T tokens, H / n heads] and back, so that a rank sees whole
sequences with its share of the heads, and attention itself is the code of a single rank.

What the policy says of the row's tokens is then gathered: each rank of the group computes the loss of the whole row,
and its backward pass goes through its own tokens alone. So gradients summed over all ranks count every token once,
while statistics are the same on all ranks of a group and are summed over one of each (`RankGrid.data_group`).

Invariants: a group's ranks are neighbours in the world, in the order of their tokens; all of them make the same
passes over the same rows in the same order (the caller guarantees it). A row that n does not divide is filled up with
one more sequence, of which nothing is read.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import pairwise

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import FunctionCtx
from transformers import PretrainedConfig

from learners.errors import UnfitError
from learners.packing import PackedSequences

_ATTENTION_LAYERS = ("full_attention", "sliding_attention")
"""Layer types that mix tokens in attention alone."""


@dataclass(frozen=True, slots=True, eq=False)
class SequenceGroup:
    """The ranks that share a row: `size` of them, this one the `rank`-th."""

    group: dist.ProcessGroup
    rank: int
    size: int

    def shard(self, packed: PackedSequences) -> "RowShard":
        """This rank's part of a row."""
        return RowShard(self, _fill_up(packed, self.size))


@dataclass(frozen=True, slots=True, eq=False)
class RankGrid:
    """Ranks as data x sequence: which share of the batch is this rank's, and with whom it reads it.

    Attributes:
        data_rank, data_ranks: the batch is cut for `data_ranks` readers, of which this rank is one, or a part of one.
        sequence_group: the ranks that read the same rows; None where each reads alone.
        data_group: ranks whose statistics add up to the batch's; None where these are all.
    """

    data_rank: int
    data_ranks: int
    sequence_group: SequenceGroup | None = None
    data_group: dist.ProcessGroup | None = None


def open_grid(rank: int, world_size: int, sequence_parallel: int, timeout_s: float) -> RankGrid:
    """Lay the ranks out; a collective where they share rows.

    Args:
        sequence_parallel: ranks that share a row; divides `world_size`.
        timeout_s: deadline of the new groups' collectives.
    """
    if sequence_parallel == 1:
        return RankGrid(rank, world_size)
    everybody = range(world_size)
    starts = everybody[::sequence_parallel]
    sharers = [everybody[start : start + sequence_parallel] for start in starts]
    alike = [everybody[place::sequence_parallel] for place in range(sequence_parallel)]
    place = rank % sequence_parallel
    return RankGrid(
        rank // sequence_parallel,
        world_size // sequence_parallel,
        SequenceGroup(_join(sharers, rank, timeout_s), place, sequence_parallel),
        _join(alike, rank, timeout_s),
    )


def check_model(config: PretrainedConfig, sequence_parallel: int) -> None:
    """Raises:
    UnfitError: so many ranks cannot share this model's rows.
    """
    if sequence_parallel == 1:
        return
    setting = "topology.learner.sequence_parallel"
    heads = config.num_attention_heads
    if heads % sequence_parallel:
        divisors = ", ".join(str(n) for n in range(1, heads + 1) if heads % n == 0)
        raise UnfitError(
            setting, f"{sequence_parallel} ranks cannot share the model's {heads} attention heads", f"{divisors} can"
        )
    other = [kind for kind in getattr(config, "layer_types", None) or () if kind not in _ATTENTION_LAYERS]
    if other:
        raise UnfitError(
            setting,
            f"the model's {other[0]} layers mix tokens outside of attention, in one rank's alone",
            "set it to 1",
        )


@dataclass(frozen=True, slots=True, eq=False)
class RowShard:
    """A rank's neighbouring tokens of a row.

    Attributes:
        row: the whole row, of a length that the group's size divides.
    """

    sequence_group: SequenceGroup
    row: PackedSequences

    @property
    def length(self) -> int:
        """Tokens of each rank."""
        return self.row.input_ids.numel() // self.sequence_group.size

    @property
    def places(self) -> slice:
        """Of this rank's tokens in the row."""
        return slice(self.sequence_group.rank * self.length, (self.sequence_group.rank + 1) * self.length)

    def shares(self, positions: Tensor) -> list[int]:
        """How many of some ascending places in the row fall to each rank."""
        ends = torch.arange(self.sequence_group.size + 1) * self.length
        bounds = torch.searchsorted(positions, ends.to(positions.device)).tolist()
        return [end - begin for begin, end in pairwise(bounds)]

    def own(self, shares: Sequence[int]) -> slice:
        """Where this rank's are among those places."""
        begin = sum(shares[: self.sequence_group.rank])
        return slice(begin, begin + shares[self.sequence_group.rank])

    def to_heads(self, tokens: Tensor) -> Tensor:
        """[1, H, T / n, D] -> [1, H / n, T, D]: all tokens for this rank's heads.

        Heads that n does not divide are repeated first, so that each rank has the ones that its queries ask.
        """
        size = self.sequence_group.size
        repeats = size // math.gcd(size, tokens.shape[1])
        whole = tokens if repeats == 1 else tokens.repeat_interleave(repeats, dim=1)
        heads: Tensor = _Trade.apply(whole, self.sequence_group, 1, 2)
        return heads

    def to_tokens(self, heads: Tensor) -> Tensor:
        """[1, T, H / n, D] -> [1, T / n, H, D]: all heads for this rank's tokens."""
        tokens: Tensor = _Trade.apply(heads, self.sequence_group, 1, 2)
        return tokens

    def gather(self, own: Tensor, shares: Sequence[int]) -> Tensor:
        """[N, ...] values of all ranks, in the order of the row, of which `own` are this rank's.

        Each rank's gradient is that of its own values: all of them compute the same from the result.
        """
        whole: Tensor = _Gather.apply(own, self.sequence_group, shares, self.own(shares))
        return whole


def _fill_up(packed: PackedSequences, multiple: int) -> PackedSequences:
    """The row, with a last sequence of as many tokens as it lacks to the next multiple."""
    length = packed.input_ids.numel()
    lacking = -length % multiple
    if not lacking:
        return packed
    return replace(
        packed,
        input_ids=torch.cat([packed.input_ids, packed.input_ids.new_zeros(lacking)]),
        position_ids=torch.cat([packed.position_ids, torch.arange(lacking).to(packed.position_ids)]),
        cu_seqlens=torch.cat([packed.cu_seqlens, packed.cu_seqlens.new_tensor([length + lacking])]),
        max_len=max(packed.max_len, lacking),
    )


def _trade(tensor: Tensor, ranks: SequenceGroup, split: int, join: int) -> Tensor:
    """Cut along one dimension, send the i-th piece to the i-th rank, and join what comes along another."""
    outgoing = torch.stack(tensor.chunk(ranks.size, split))
    incoming = torch.empty_like(outgoing)
    dist.all_to_all_single(incoming, outgoing, group=ranks.group)
    return torch.cat(incoming.unbind(0), join)


class _Trade(torch.autograd.Function):
    """An all-to-all, whose gradient is the all-to-all back."""

    @staticmethod
    def forward(ctx: FunctionCtx, tensor: Tensor, ranks: SequenceGroup, split: int, join: int) -> Tensor:
        ctx.ranks, ctx.split, ctx.join = ranks, split, join  # type: ignore[attr-defined]
        return _trade(tensor, ranks, split, join)

    @staticmethod
    def backward(ctx: FunctionCtx, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        back = _trade(grads[0], ctx.ranks, ctx.join, ctx.split)  # type: ignore[attr-defined]
        return back, None, None, None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, own: Tensor, ranks: SequenceGroup, shares: Sequence[int], place: slice) -> Tensor:
        ctx.place = place  # type: ignore[attr-defined]
        if not any(shares):
            return own.clone()
        # Equal pieces: as long as the longest.
        piece = own.new_zeros(max(shares), *own.shape[1:])
        piece[: len(own)] = own
        pieces = own.new_empty(ranks.size * len(piece), *own.shape[1:])
        dist.all_gather_into_tensor(pieces, piece, group=ranks.group)
        held = pieces.split(len(piece))
        return torch.cat([part[:count] for part, count in zip(held, shares, strict=True)])

    @staticmethod
    def backward(ctx: FunctionCtx, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        return grads[0][ctx.place], None, None, None  # type: ignore[attr-defined]


def _join(groups: Sequence[Sequence[int]], rank: int, timeout_s: float) -> dist.ProcessGroup:
    """Every rank makes every group, in one order, and keeps its own."""
    made = [dist.new_group(list(ranks), timeout=timedelta(seconds=timeout_s)) for ranks in groups]
    return next(group for group, ranks in zip(made, groups, strict=True) if rank in ranks)
