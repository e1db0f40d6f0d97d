"""The account of every prompt dispatched: dispatched = trained + filtered + dropped + failed + pending, always.

Invariant: a dispatched prompt is pending until it reaches exactly one of the four ends, and stays there; a transition
that breaks this raises, because it is a bug of the caller and would make the account a lie.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from enum import StrEnum


class End(StrEnum):
    """How a dispatched prompt can end."""

    TRAINED = "trained"
    FILTERED = "filtered"
    DROPPED = "dropped"
    FAILED = "failed"


class Ledger:
    """Counts dispatches by their end. An index names one dispatch of one prompt.

    Args:
        ends, pending: an account to go on with; a new one is empty.
    """

    def __init__(self, ends: Mapping[End, int] | None = None, pending: Iterable[int] = ()) -> None:
        self._pending: set[int] = set(pending)
        self._ends: Counter[End] = Counter(ends or {})
        self._dispatched = self._ends.total() + len(self._pending)

    def dispatch(self, index: int) -> None:
        if index in self._pending:
            raise ValueError(f"dispatch {index} is already pending")
        self._pending.add(index)
        self._dispatched += 1

    def end(self, index: int, how: End) -> None:
        if index not in self._pending:
            raise ValueError(f"dispatch {index} cannot become {how}: it is not pending")
        self._pending.remove(index)
        self._ends[how] += 1

    def count(self, how: End) -> int:
        return self._ends[how]

    def ends(self) -> dict[End, int]:
        """How many ended how."""
        return {how: self._ends[how] for how in End}

    @property
    def pending(self) -> int:
        return len(self._pending)

    def counts(self) -> dict[str, int]:
        """The account as summary.json shows it."""
        ends = {str(how): self._ends[how] for how in End}
        return {"dispatched": self._dispatched, **ends, "pending": len(self._pending)}
