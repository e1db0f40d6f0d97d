"""Accelerator-seconds lost to the longest answers.

Definition. Take the fleet's load as a whole and cut it into stretches (`occupancy`). In a stretch that
ran R answers at its fullest on E engines, r answers keep r / R of the engines busy at a moment, and E * (1 - r / R)
engines' worth of capacity stands idle. The loss to the longest k answers is that capacity, added up over the moments
after the stretch last ran its fullest at which *only* answers among its k longest were on the engines. The longest are
chosen by tokens (of equals, the one that ended last) among the answers that began before the tail; what begins in the
tail is the refill. The loss counts what others could have run meanwhile, not what one answer alone costs; seconds of
an engine count once for each of its accelerators.

An asynchronous run has few stretches, and refills its engines before its longest answers are alone: its loss is small
by this definition because it does not wait, not because its answers are shorter. Pure.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from orchestrator.analysis.lineage import Lineage, TrajectoryLife
from orchestrator.analysis.occupancy import Stretch, fullest_until, load_of, stretches_of
from orchestrator.run_events import Span


@dataclass(frozen=True, slots=True)
class TailLoss:
    """Attributes:
    share: of each stretch's answers that count as its longest; 0 stands for the one longest alone.
    accelerator_s: lost to them, over all stretches.
    fraction: of all accelerator-seconds of the stretches.
    """

    share: float
    accelerator_s: float
    fraction: float

    @property
    def label(self) -> str:
        return "the longest answer" if self.share == 0 else f"the longest {self.share:.0%}"


@dataclass(frozen=True, slots=True)
class _Stay:
    """One leg, and the length of the answer that it belongs to."""

    span: Span
    answer: str
    tokens: int


def tail_losses(lineage: Lineage, shares: Sequence[float]) -> tuple[TailLoss, ...]:
    """One loss per share of the answers (of each stretch, rounded up); share 0 is the single longest."""
    stays = [
        _Stay(Span(leg.submitted_at, leg.finished_at), answer.name, answer.tokens)
        for answer in lineage.answers
        for leg in answer.legs
        if leg.finished_at > leg.submitted_at
    ]
    stretches = stretches_of(load_of(stay.span for stay in stays))
    by_stretch = list(zip(stretches, _split(stays, stretches), strict=True))
    per_engine = lineage.run.tensor_parallel
    engines = [lineage.serving(stretch.span.start) * per_engine for stretch in stretches]
    whole = sum(count * stretch.span.seconds for count, stretch in zip(engines, stretches, strict=True))
    losses: list[TailLoss] = []
    for share in shares:
        lost = sum(
            count * _idle_seconds(stretch, own, share)
            for count, (stretch, own) in zip(engines, by_stretch, strict=True)
        )
        losses.append(TailLoss(share, lost, lost / whole if whole else 0.0))
    return tuple(losses)


def _split(stays: Sequence[_Stay], stretches: Sequence[Stretch]) -> list[list[_Stay]]:
    """The stays of each stretch; one that reaches over several is in all of them."""
    ordered = sorted(stays, key=lambda stay: stay.span.start)
    split: list[list[_Stay]] = []
    carried: list[_Stay] = []
    place = 0
    for stretch in stretches:
        while place < len(ordered) and ordered[place].span.start < stretch.span.end:
            carried.append(ordered[place])
            place += 1
        split.append([stay for stay in carried if stay.span.end > stretch.span.start])
        carried = [stay for stay in carried if stay.span.end > stretch.span.end]
    return split


def _idle_seconds(stretch: Stretch, stays: Sequence[_Stay], share: float) -> float:
    """Seconds of the whole fleet's capacity that stood idle while only the longest were there."""
    refill_from = stretch.span.end if stretch.tail_from is None else stretch.tail_from
    ends: dict[str, tuple[int, float]] = {}
    for stay in stays:
        if stay.span.start < refill_from:
            ends[stay.answer] = (stay.tokens, max(stay.span.end, ends.get(stay.answer, (0, 0.0))[1]))
    ranked = sorted(ends, key=lambda name: ends[name], reverse=True)
    longest = set(ranked[: max(1, math.ceil(share * len(ranked)))])
    edges = [stretch.loads[0].start, *(load.end for load in stretch.loads)]
    idle = [(1 - load.answers / stretch.fullest) * load.seconds for load in stretch.loads]
    alone = _gaps([stay.span for stay in stays if stay.answer not in longest], fullest_until(stretch), stretch.span.end)
    until = np.interp([edge for gap in alone for edge in (gap.start, gap.end)], edges, [0.0, *accumulate(idle)])
    return float(np.sum(until[1::2] - until[::2]))


def _gaps(spans: Sequence[Span], start: float, end: float) -> list[Span]:
    """The times between `start` and `end` that none of the spans covers."""
    gaps: list[Span] = []
    for span in sorted(spans, key=lambda span: span.start):
        if span.start >= end:
            break
        if span.start > start:
            gaps.append(Span(start, span.start))
        start = max(start, span.end)
    return [*gaps, Span(start, end)] if start < end else gaps


def longest_answers(lineage: Lineage, count: int) -> tuple[TrajectoryLife, ...]:
    """The answers with most tokens, the longest first."""
    return tuple(sorted(lineage.answers, key=lambda answer: (-answer.tokens, answer.group, answer.sample))[:count])
