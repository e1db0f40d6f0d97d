"""The speculation report: did drafting pay, for which batches, and what the drafter's learning took.

Built from events.jsonl alone, like the tail report. Pure but for `read_speculation`. Acceptance length is tokens per
answer and forward pass over the steps that verified drafts; shares are of the engines' decoding time.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.analysis.lineage import EVENTS_FILE
from orchestrator.run_events import (
    DrafterStudied,
    DrafterTakenBack,
    Phase,
    Speculated,
    SpeculationFailed,
    Trained,
    read_events,
)

PARTS = 5
"""Equal parts of the training time over which acceptance is followed."""


@dataclass(frozen=True, slots=True)
class SpeculationEvents:
    """What the log says of speculation, and when steps were trained; in order of time."""

    speculated: tuple[Speculated, ...]
    studied: tuple[DrafterStudied, ...]
    taken_back: tuple[DrafterTakenBack, ...]
    failed: tuple[SpeculationFailed, ...]
    trained: tuple[Trained, ...]


@dataclass(frozen=True, slots=True)
class BatchRow:
    """One bucket of running answers.

    Attributes:
        first: smallest number of running answers in it.
        share: of the decoding time.
        by_length: share of the bucket's time by draft length, ascending.
        acceptance_length: None where nothing was drafted.
    """

    first: int
    share: float
    by_length: tuple[tuple[int, float], ...]
    acceptance_length: float | None


@dataclass(frozen=True, slots=True)
class SpeculationReport:
    """Attributes:
    course: acceptance length in each of `PARTS` parts of the run; None where nothing was drafted.
    training_share: the drafter's training and judging, against the time from the first to the last step.
    """

    course: tuple[float | None, ...]
    batches: tuple[BatchRow, ...]
    studied: tuple[DrafterStudied, ...]
    taken_back: tuple[DrafterTakenBack, ...]
    failures: tuple[str, ...]
    training_share: float | None


def read_speculation(run_directory: Path) -> SpeculationEvents:
    """Raises: LogError: no readable events.jsonl of this format."""
    events = list(read_events(run_directory / EVENTS_FILE))
    return SpeculationEvents(
        tuple(event for event in events if isinstance(event, Speculated)),
        tuple(event for event in events if isinstance(event, DrafterStudied)),
        tuple(event for event in events if isinstance(event, DrafterTakenBack)),
        tuple(event for event in events if isinstance(event, SpeculationFailed)),
        tuple(event for event in events if isinstance(event, Trained)),
    )


def speculation_report(events: SpeculationEvents) -> SpeculationReport | None:
    """None for a run without speculation."""
    if not events.speculated and not events.failed:
        return None
    seconds = sum(study.seconds for study in events.studied)
    trained = events.trained
    whole = trained[-1].ended - trained[0].began if trained else 0.0
    return SpeculationReport(
        _course(events.speculated),
        tuple(_batches([phase for event in events.speculated for phase in event.phases])),
        events.studied,
        events.taken_back,
        tuple(f"{event.worker}: {event.reason}" for event in events.failed),
        seconds / whole if whole > 0 else None,
    )


def render_speculation(report: SpeculationReport) -> list[str]:
    """Lines for the screen."""
    lines = [f"without speculation: {failure}" for failure in report.failures]
    course = " -> ".join("-" if length is None else f"{length:.2f}" for length in report.course)
    if report.course:
        lines.append(f"acceptance length  {course}  (fifths of the run; tokens per forward pass while drafting)")
    if report.batches:
        lines.append("running answers   time   draft length: share of that time                acceptance length")
    for row in report.batches:
        lengths = "  ".join(f"K={k}: {share:.0%}" for k, share in row.by_length)
        length = "-" if row.acceptance_length is None else f"{row.acceptance_length:.2f}"
        lines.append(f"{row.first:>6} and more  {row.share:>5.0%}   {lengths:<48}  {length}")
    return [*lines, *_study_lines(report)]


def _study_lines(report: SpeculationReport) -> list[str]:
    if not report.studied:
        return []
    places = dict.fromkeys(study.place for study in report.studied)
    published = [study for study in report.studied if study.published is not None]
    steps = sum(study.steps for study in report.studied)
    seconds = sum(study.seconds for study in report.studied)
    share = "" if report.training_share is None else f", {report.training_share:.0%} of the training time"
    lines = [
        f"drafter's training {len(report.studied)} sessions, {steps} micro-steps, {seconds:.1f} s{share}; "
        f"{len(published)} versions published",
        f"where              {', '.join(_place(report.studied, place) for place in places)}",
    ]
    return [*lines, *(f"taken back         {event.reason}" for event in report.taken_back)]


def _place(studied: Sequence[DrafterStudied], place: str) -> str:
    own = [study for study in studied if study.place == place]
    return f"{'beside the ' if place == 'learner' else 'on idle '}{place} {len(own)} times ({own[-1].why_there})"


def _course(speculated: Sequence[Speculated]) -> tuple[float | None, ...]:
    if not speculated:
        return ()
    begin, end = speculated[0].time, speculated[-1].time
    width = max(end - begin, 1e-9) / PARTS
    parts: list[list[Phase]] = [[] for _ in range(PARTS)]
    for event in speculated:
        parts[min(PARTS - 1, int((event.time - begin) / width))] += event.phases
    return tuple(_acceptance_length(part) for part in parts)


def _batches(phases: Sequence[Phase]) -> Iterable[BatchRow]:
    whole = sum(phase.seconds for phase in phases)
    for first in sorted({phase.running for phase in phases}):
        own = [phase for phase in phases if phase.running == first]
        seconds = sum(phase.seconds for phase in own)
        if seconds <= 0:
            continue
        lengths = sorted({phase.k for phase in own})
        by_length = tuple((k, sum(phase.seconds for phase in own if phase.k == k) / seconds) for k in lengths)
        yield BatchRow(first, seconds / whole, by_length, _acceptance_length(own))


def _acceptance_length(phases: Sequence[Phase]) -> float | None:
    drafts = sum(phase.drafts for phase in phases)
    return 1 + sum(phase.accepted for phase in phases) / drafts if drafts else None
