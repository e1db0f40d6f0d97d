"""Which waiting answer starts next.

Pure. Under `longest_first` (Seer, arXiv 2511.14617: probes, then longest first):
1. answers that are continued, in (group, sample) order: they are the oldest work, and nearest to their bound;
2. then by admitted version, oldest first: among answers of one version the order is free, but a short answer must not
   wait while ever newer groups overtake it, because its group would become too stale;
3. of one version, a probe of each group, its sample 0, in group order: it tells how long the others will become;
4. the rest by predicted remaining length, longest first; no prediction, or one that the answer has outgrown, counts as
   longest; ties in (group, sample) order.
Under `fifo` in order of arrival.

Invariants: a ticket that was put leaves exactly once, by `pop` or by `remove`; a ticket that no free engine may serve
does not hold up the others (`pop` says which versions may be served). Every operation costs O(log n) amortised per
ticket touched, plus the number of different version floors: a changed ticket gets a new heap entry, and outdated ones
are swept when they are met, or all at once when they outnumber the tickets.
"""

import heapq
import itertools
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

_SWEEP_MARGIN = 64


@dataclass(frozen=True, slots=True)
class Ticket:
    """One answer that waits for a place on an engine.

    Attributes:
        min_version: oldest weight version that may sample it.
        sampled: tokens it has already.
        predicted: expected tokens of the whole answer; None if nothing is known.
        continued: it was suspended before and goes on where it was.
    """

    request_id: str
    group: int
    sample: int
    min_version: int
    sampled: int
    predicted: float | None
    continued: bool

    @property
    def remaining(self) -> float | None:
        """Tokens expected still; None if nothing is known, also when the answer has outgrown its prediction."""
        if self.predicted is None or self.predicted <= self.sampled:
            return None
        return self.predicted - self.sampled


class _Entry(NamedTuple):
    """A heap entry; compared by key, then by serial, which no two entries share."""

    key: tuple[float, ...]
    serial: int
    request_id: str


@dataclass(frozen=True, slots=True)
class _Waiting:
    ticket: Ticket
    arrival: int
    entry: _Entry


class RequestQueue:
    def __init__(self, order: Literal["longest_first", "fifo"]) -> None:
        self._order = order
        self._waiting: dict[str, _Waiting] = {}
        self._groups: dict[int, dict[str, None]] = {}
        self._heaps: dict[int, list[_Entry]] = {}
        """By version floor."""
        self._entries = 0
        self._serials = itertools.count()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, ticket: Ticket) -> None:
        """Raises: ValueError: its request waits already."""
        if ticket.request_id in self._waiting:
            raise ValueError(f"request {ticket.request_id} is in the queue already")
        self._groups.setdefault(ticket.group, {})[ticket.request_id] = None
        serial = next(self._serials)
        self._enter(ticket, serial, serial)

    def peek(self, version: int | None = None) -> Ticket | None:
        """What `pop` would give."""
        heads = [heap[0] for floor in list(self._heaps) if (heap := self._swept(floor, version))]
        return self._waiting[min(heads).request_id].ticket if heads else None

    def pop(self, version: int | None = None) -> Ticket | None:
        """Take out the next ticket that an engine of this weight version may serve; None: of any version."""
        ticket = self.peek(version)
        return None if ticket is None else self.remove(ticket.request_id)

    def remove(self, request_id: str) -> Ticket | None:
        """Take out this ticket; None if it does not wait."""
        waiting = self._waiting.pop(request_id, None)
        if waiting is None:
            return None
        group = self._groups[waiting.ticket.group]
        del group[request_id]
        if not group:
            del self._groups[waiting.ticket.group]
        self._sweep_if_due()
        return waiting.ticket

    def repredict(self, group: int, tokens: float | None) -> None:
        """The answers of this group are now expected to become this long (None: nothing is known)."""
        for request_id in self._groups.get(group, ()):
            waiting = self._waiting[request_id]
            ticket = replace(waiting.ticket, predicted=tokens)
            if self._key(ticket, waiting.arrival) == waiting.entry.key:
                self._waiting[request_id] = replace(waiting, ticket=ticket)
            else:
                self._enter(ticket, waiting.arrival, next(self._serials))
        self._sweep_if_due()

    def _enter(self, ticket: Ticket, arrival: int, serial: int) -> None:
        entry = _Entry(self._key(ticket, arrival), serial, ticket.request_id)
        self._waiting[ticket.request_id] = _Waiting(ticket, arrival, entry)
        heapq.heappush(self._heaps.setdefault(ticket.min_version, []), entry)
        self._entries += 1

    def _key(self, ticket: Ticket, arrival: int) -> tuple[float, ...]:
        if self._order == "fifo":
            return (arrival,)
        if ticket.continued:
            return (0, ticket.group, ticket.sample)
        if ticket.sample == 0:
            return (1, ticket.min_version, 0, ticket.group)
        remaining = ticket.remaining
        longest_first = float("-inf") if remaining is None else -remaining
        return (1, ticket.min_version, 1, longest_first, ticket.group, ticket.sample)

    def _is_current(self, entry: _Entry) -> bool:
        waiting = self._waiting.get(entry.request_id)
        return waiting is not None and waiting.entry.serial == entry.serial

    def _swept(self, floor: int, version: int | None) -> list[_Entry]:
        """The heap of this version floor with a current entry on top; empty if nothing there may be served."""
        if version is not None and floor > version:
            return []
        heap = self._heaps[floor]
        while heap and not self._is_current(heap[0]):
            heapq.heappop(heap)
            self._entries -= 1
        if not heap:
            del self._heaps[floor]
        return heap

    def _sweep_if_due(self) -> None:
        if self._entries <= 2 * len(self._waiting) + _SWEEP_MARGIN:
            return
        heaps: dict[int, list[_Entry]] = {}
        for waiting in self._waiting.values():
            heaps.setdefault(waiting.ticket.min_version, []).append(waiting.entry)
        for heap in heaps.values():
            heapq.heapify(heap)
        self._heaps, self._entries = heaps, len(self._waiting)
