"""How many answers engines ran at any time, and the stretches from full load to empty.

The one place that defines `stretch` and `tail`, for the trace and the tail report alike. Pure arithmetic over spans.

A *stretch* begins with the first answer and ends when no answer runs any more, or when the load, after it was in its
tail, rises out of it again: then the next stretch begins. Its *tail* is the part, after the last time at which the
stretch ran its fullest, in which at most `TAIL_SHARE` of the fullest runs. A synchronous run has a stretch with a tail
for each batch; in a run that never waits for its longest answers one stretch lasts the whole run, and its tail is what
runs out at the end.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from orchestrator.run_events import Span

TAIL_SHARE = 0.25
"""An engine in its tail decodes at most a quarter of what it decoded at its fullest. At a quarter of its answers a
memory-bound engine has lost close to three quarters of its speed, in tokens per second."""


@dataclass(frozen=True, slots=True)
class Load:
    """From `start` to `end`, `answers` were on the engine (or fleet): running, or waiting in its queue."""

    start: float
    end: float
    answers: int

    @property
    def seconds(self) -> float:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Stretch:
    """Loads without a gap between them, none of them 0, and when their tail begins (None: they have none)."""

    loads: tuple[Load, ...]
    fullest: int
    tail_from: float | None

    @property
    def span(self) -> Span:
        return Span(self.loads[0].start, self.loads[-1].end)


def load_of(spans: Iterable[Span]) -> tuple[Load, ...]:
    """The load that these answers were, from the first to the last, pieces of 0 answers included; neighbours differ."""
    changes: dict[float, int] = {}
    for span in spans:
        if span.seconds > 0:
            changes[span.start] = changes.get(span.start, 0) + 1
            changes[span.end] = changes.get(span.end, 0) - 1
    loads: list[Load] = []
    running = 0
    times = sorted(changes)
    for at, until in pairwise(times):
        running += changes[at]
        if loads and loads[-1].answers == running:
            loads[-1] = Load(loads[-1].start, until, running)
        else:
            loads.append(Load(at, until, running))
    return tuple(loads)


def stretches_of(loads: Iterable[Load]) -> tuple[Stretch, ...]:
    """Cut a load into stretches, in order of time."""
    stretches: list[Stretch] = []
    current: list[Load] = []
    fullest = 0
    in_tail = False
    for load in loads:
        left_tail = in_tail and load.answers > TAIL_SHARE * fullest
        if current and (load.answers == 0 or left_tail):
            stretches.append(_stretch(current, fullest))
            current, fullest, in_tail = [], 0, False
        if load.answers:
            current.append(load)
            fullest = max(fullest, load.answers)
            in_tail = load.answers <= TAIL_SHARE * fullest
    if current:
        stretches.append(_stretch(current, fullest))
    return tuple(stretches)


def fullest_until(stretch: Stretch) -> float:
    """End of the last time at which the stretch ran its fullest."""
    return max(load.end for load in stretch.loads if load.answers == stretch.fullest)


def _stretch(loads: list[Load], fullest: int) -> Stretch:
    tail_from: float | None = None
    for load in reversed(loads):
        if load.answers > TAIL_SHARE * fullest:
            break
        tail_from = load.start
    return Stretch(tuple(loads), fullest, tail_from)
