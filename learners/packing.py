"""Sequence packing: many sequences in one row of tokens, and the plan of which sequences share a row.

Pure functions; the same input gives the same plan on every rank, so ranks need not talk to agree on it.

Invariants, guaranteed by `plan_micro_batches`:
- every sequence is in exactly one micro-batch of one rank, whole;
- no micro-batch holds more tokens than the budget;
- all ranks have the same number of micro-batches, since each of them is a round of collectives. Where there
  are fewer sequences than rounds x ranks, some micro-batches are empty: their rank still runs the round,
  with zero weight.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

MicroBatchPlan = tuple[tuple[tuple[int, ...], ...], ...]
"""[rank][round] -> indices of sequences, ascending."""


@dataclass(frozen=True, slots=True, eq=False)
class PackedSequences:
    """S sequences laid end to end, T tokens in all, no padding.

    Attributes:
        input_ids: [T] int64.
        position_ids: [T] int64, each token's place in its own sequence.
        cu_seqlens: [S + 1] int32, where each sequence starts; the last entry is T.
        max_len: length of the longest sequence.
    """

    input_ids: Tensor
    position_ids: Tensor
    cu_seqlens: Tensor
    max_len: int

    @property
    def lengths(self) -> list[int]:
        """[S] length of each sequence."""
        return [int(length) for length in self.cu_seqlens.diff().tolist()]

    def next_token_positions(self) -> Tensor:
        """[T - S] places in the row whose next token belongs to the same sequence, ascending."""
        keeps = torch.ones_like(self.input_ids, dtype=torch.bool)
        keeps[self.cu_seqlens[1:].long() - 1] = False
        return keeps.nonzero().squeeze(1)


def pack(sequences: Sequence[Sequence[int]]) -> PackedSequences:
    """Lay token sequences end to end (on the CPU).

    Raises:
        ValueError: no sequence, or one without tokens.
    """
    lengths = [len(sequence) for sequence in sequences]
    if not lengths or not all(lengths):
        raise ValueError("packing needs at least one sequence, and a token in each")
    flat = [token for sequence in sequences for token in sequence]
    cu_seqlens = torch.zeros(len(lengths) + 1, dtype=torch.int32)
    cu_seqlens[1:] = torch.tensor(lengths).cumsum(0)
    starts = cu_seqlens[:-1].long().repeat_interleave(torch.tensor(lengths))
    return PackedSequences(
        input_ids=torch.tensor(flat, dtype=torch.int64),
        position_ids=torch.arange(len(flat)) - starts,
        cu_seqlens=cu_seqlens,
        max_len=max(lengths),
    )


def plan_micro_batches(
    lengths: Sequence[int], token_budget: int, ranks: int = 1, *, unit: str = "a sequence"
) -> MicroBatchPlan:
    """Deal sequences out to the fewest rounds of micro-batches, with even token counts.

    Longest sequence first into the lightest bin (Graham's LPT rule), for the smallest number of rounds in
    which no bin exceeds the budget; bins are then dealt to the ranks back and forth, so that ranks carry
    even totals too.

    Args:
        lengths: tokens of each sequence, or of whatever else stays together.
        token_budget: most tokens in one micro-batch.
        ranks: processes that share the work.
        unit: what a length is the length of, for the message.

    Raises:
        ValueError: a sequence is longer than the budget.
    """
    longest = max(lengths, default=0)
    if longest > token_budget:
        raise ValueError(
            f"trainer.token_budget is {token_budget}, but {unit} has {longest} tokens: "
            f"raise the budget to {longest} or shorten the answers"
        )
    rounds = max(1, -(-sum(lengths) // (token_budget * ranks)))
    bins = _fill(lengths, rounds * ranks)
    # Ends at the latest with one sequence to a bin.
    while max(load for load, _ in bins) > token_budget:
        rounds += 1
        bins = _fill(lengths, rounds * ranks)
    bins.sort(key=lambda entry: -entry[0])
    return tuple(
        tuple(
            tuple(sorted(bins[turn * ranks + (rank if turn % 2 == 0 else ranks - 1 - rank)][1]))
            for turn in range(rounds)
        )
        for rank in range(ranks)
    )


def _fill(lengths: Sequence[int], count: int) -> list[tuple[int, list[int]]]:
    """Bins as (tokens, indices); ties go to the lower index and the earlier bin."""
    heap = [(0, place) for place in range(count)]
    members: list[list[int]] = [[] for _ in range(count)]
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        load, place = heap[0]
        heapq.heapreplace(heap, (load + lengths[index], place))
        members[place].append(index)
    loads = {place: load for load, place in heap}
    return [(loads[place], members[place]) for place in range(count)]
