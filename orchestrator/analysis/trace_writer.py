"""Writes Chrome's trace-event format: processes, threads, slices, counters, arrows. Knows nothing of runs.

The JSON object format, as ui.perfetto.dev and chrome://tracing read it: phase X is a complete slice, C a counter, M
metadata, s and f the ends of an arrow, which bind to the slice that covers their time on their thread. Times are whole
microseconds from `zero`. Invariants: slices of a thread never overlap (viewers drop those that do), a thread has its
name before its first slice, and events are in order of time.
"""

import heapq
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from pydantic import JsonValue

from orchestrator.run_events import Span

TraceEvent = dict[str, JsonValue]


@dataclass(frozen=True, slots=True)
class Flow:
    """One end of arrow `number`: it leaves the end of a slice (`begins`) or reaches the start of another."""

    number: int
    begins: bool


@dataclass(frozen=True, slots=True)
class Slice:
    """A named piece of time; `span` in the clock of the run."""

    span: Span
    name: str
    args: dict[str, JsonValue] = field(default_factory=dict)
    flow: Flow | None = None


class TraceWriter:
    """Args:
    zero: the time that becomes 0.
    """

    def __init__(self, zero: float) -> None:
        self._zero = zero
        self._header: list[TraceEvent] = []
        self._timed: list[tuple[int, int, TraceEvent]] = []
        """By start, then the longer first, so that an arrow's end comes after the slice that it binds to."""
        self._threads: Counter[int] = Counter()

    def process(self, process: int, name: str) -> None:
        """Processes are shown in order of their number."""
        self._name("process_name", process, 0, {"name": name})
        self._name("process_sort_index", process, 0, {"sort_index": process})

    def lanes(self, process: int, name: str, pieces: Iterable[Slice]) -> None:
        """Draw slices on as few threads of one name as hold them without overlap."""
        lanes = packed(pieces)
        for number, lane in enumerate(lanes, start=1):
            self._threads[process] += 1
            thread = self._threads[process]
            self._name("thread_name", process, thread, {"name": name if len(lanes) == 1 else f"{name} {number}"})
            self._name("thread_sort_index", process, thread, {"sort_index": thread})
            for piece in lane:
                self._slice(process, thread, piece)

    def counter(self, process: int, name: str, at: float, values: dict[str, JsonValue]) -> None:
        """From `at` on, the counter has these values, drawn on top of each other."""
        self._add(self._us(at), 0, {"ph": "C", "name": name, "pid": process, "tid": 0, "args": values})

    def in_order(self) -> list[TraceEvent]:
        """All events: names first, then by time."""
        return [*self._header, *(event for *_, event in sorted(self._timed, key=lambda timed: timed[:2]))]

    def _slice(self, process: int, thread: int, piece: Slice) -> None:
        start, end = self._us(piece.span.start), self._us(piece.span.end)
        event: TraceEvent = {"ph": "X", "cat": "run", "name": piece.name, "pid": process, "tid": thread}
        self._add(start, end - start, {**event, "dur": end - start, "args": piece.args})
        if piece.flow is None:
            return
        arrow: TraceEvent = {"cat": "used", "name": "used", "id": piece.flow.number, "pid": process, "tid": thread}
        if piece.flow.begins:
            self._add(max(start, end - 1), 0, {"ph": "s", **arrow})
        else:
            self._add(start, 0, {"ph": "f", "bp": "e", **arrow})

    def _add(self, at: int, duration: int, event: TraceEvent) -> None:
        self._timed.append((at, -duration, {**event, "ts": at}))

    def _name(self, kind: str, process: int, thread: int, args: dict[str, JsonValue]) -> None:
        self._header.append({"ph": "M", "name": kind, "pid": process, "tid": thread, "ts": 0, "args": args})

    def _us(self, at: float) -> int:
        return round((at - self._zero) * 1e6)


def packed(pieces: Iterable[Slice]) -> list[list[Slice]]:
    """Slices into the fewest lanes without overlap: in order of start, each to the lowest lane that is free.

    Of those that start together the longest come first, so that the long ones are at the top of the picture.
    """
    lanes: list[list[Slice]] = []
    busy: list[tuple[float, int]] = []
    free: list[int] = []
    for piece in sorted(pieces, key=lambda piece: (piece.span.start, -piece.span.end)):
        while busy and busy[0][0] <= piece.span.start:
            heapq.heappush(free, heapq.heappop(busy)[1])
        if free:
            lane = heapq.heappop(free)
        else:
            lane = len(lanes)
            lanes.append([])
        lanes[lane].append(piece)
        heapq.heappush(busy, (piece.span.end, lane))
    return lanes
