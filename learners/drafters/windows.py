"""Training windows: contiguous stretches of answers with the target's hidden states, and packed rows of them.

A window starts anywhere in its sequence. Its positions are the sequence's own, so that rotary angles are those of
decoding; what lies before the window is not attended, which is the price of not keeping whole sequences.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from learners.attention import PackedLayout, lay_out
from learners.packing import PackedSequences


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """L contiguous tokens of one sequence.

    Attributes:
        sequence_id: of the sequence, unique within a step.
        token_ids: [L] int64.
        positions: [L] int64, ascending by one: places in the sequence.
        hidden: [L, H] by layer (`learners.drafters.target.FINAL` or a count of blocks), without gradient.
        version: of the weights that computed the hidden states.
        sequence_length: tokens of the whole sequence.
    """

    sequence_id: str
    token_ids: Tensor
    positions: Tensor
    hidden: Mapping[int, Tensor]
    version: int
    sequence_length: int

    def __len__(self) -> int:
        return int(self.token_ids.shape[0])

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in (self.token_ids, self.positions, *self.hidden.values()))


@dataclass(frozen=True, slots=True, eq=False)
class PackedWindows:
    """Windows laid end to end, T tokens in all, no padding.

    Attributes:
        packed: tokens and positions; what it calls sequences are windows here.
        hidden: [T, H] by layer.
        room: [T] int64, how many tokens of the same window follow each.
        layout: for attention, see `learners.attention`.
    """

    packed: PackedSequences
    hidden: Mapping[int, Tensor]
    room: Tensor
    layout: PackedLayout

    def ahead(self, values: Tensor, steps: int) -> Tensor:
        """[T, ...] the value `steps` places on; rows without so much room hold something of no meaning."""
        return values if steps == 0 else values.roll(-steps, 0)


def pack_windows(windows: Sequence[Window], layers: Sequence[int], device: torch.device) -> PackedWindows:
    """Lay windows end to end on a device.

    Args:
        layers: whose hidden states are wanted.

    Raises:
        ValueError: no window.
        KeyError: a window lacks a layer.
    """
    if not windows:
        raise ValueError("packing needs at least one window")
    lengths = [len(window) for window in windows]
    ends = torch.tensor(lengths).cumsum(0)
    cu_seqlens = torch.zeros(len(lengths) + 1, dtype=torch.int32)
    cu_seqlens[1:] = ends
    room = ends.repeat_interleave(torch.tensor(lengths)) - torch.arange(int(ends[-1])) - 1
    return PackedWindows(
        packed=PackedSequences(
            input_ids=torch.cat([window.token_ids for window in windows]).to(device),
            position_ids=torch.cat([window.positions for window in windows]).to(device),
            cu_seqlens=cu_seqlens,
            max_len=max(lengths),
        ),
        hidden={layer: torch.cat([window.hidden[layer] for window in windows]).to(device) for layer in layers},
        room=room.to(device),
        layout=lay_out(lengths, device),
    )


def plan_rows(windows: Sequence[Window], token_budget: int) -> list[list[Window]]:
    """Cut windows, in order, into rows of at most `token_budget` tokens; a longer window has a row of its own."""
    rows: list[list[Window]] = []
    held = token_budget
    for window in windows:
        if held + len(window) > token_budget:
            rows.append([])
            held = 0
        rows[-1].append(window)
        held += len(window)
    return rows
