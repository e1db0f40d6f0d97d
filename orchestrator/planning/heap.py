"""What a process on cores loses to its own heap. Pure."""

from orchestrator.planning.memory import MIB, Need
from orchestrator.planning.model_shape import ModelShape

HEAP_PIECE = 32 * MIB
"""From this size on glibc asks the system for each piece (its largest dynamic threshold)."""
HEAP_SHARE = 0.2
"""Of the memory of a learner whose matrices all are smaller: what is lost to gaps, as measured (docs/plan.md)."""


def with_heap(need: Need, shape: ModelShape) -> Need:
    """In main memory, what the C library's heap keeps and cannot use again, beside the tensors themselves.

    Pieces from `HEAP_PIECE` on are given back to the system; smaller ones leave gaps between those that stay.
    """
    small = sum(p.elements for unit in shape.units for p in unit.parameters if 4 * p.elements < HEAP_PIECE)
    return need.and_stays({"heap gaps": int(HEAP_SHARE * need.total * small / shape.parameters)})
