"""What a replay needs of a recorded run: lengths in dispatch order, the engines' speed, and the learner's times.

Pure. Times of evaluations and checkpoints are taken out of the run's wall time, since no policy changes them. Answers
that were cut count with the length that they had: a replay of a run that threw answers away is too hopeful.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean, median

from orchestrator.analysis.lineage import GroupLife, Lineage
from orchestrator.analysis.speed_model import SpeedModel, fit_speed
from orchestrator.run_events import RunStarted, Span, Trained

MAX_ANSWERS = 20_000
"""A longer run is replayed as far as the steps that this many trained answers reach: seconds, not minutes."""


@dataclass(frozen=True, slots=True)
class RecordedGroup:
    """Lengths in tokens, in sample order; `signal` False if the group was filtered."""

    lengths: tuple[int, ...]
    score_s: float
    signal: bool


@dataclass(frozen=True, slots=True)
class Recording:
    """A run in numbers. Seconds are means or medians over the run.

    Attributes:
        run: its settings.
        groups: in order of dispatch, whole ones only.
        steps: gradient steps to replay.
        step_s: the learner computes one step.
        publish_s: it hands out new weights and does nothing else.
        sync_s: from then until every engine has them; pause_s: of that, an engine samples nothing.
        wall_s: measured, from the first dispatch to the end of the last of these steps.
    """

    run: RunStarted
    groups: tuple[RecordedGroup, ...]
    speed: SpeedModel
    steps: int
    step_s: float
    publish_s: float
    sync_s: float
    pause_s: float
    wall_s: float


def recording_of(lineage: Lineage) -> Recording | None:
    """The recording of a run; None where it is too short to say anything: no step, or no group with signal."""
    groups = tuple(_group(group) for group in lineage.groups if _is_whole(group, lineage.run.group_size))
    steps = _first_steps(lineage.steps, lineage.run)
    speed = _speed(lineage)
    if not steps or speed is None or not any(group.signal for group in groups):
        return None
    whole = Span(min(group.dispatched_at for group in lineage.groups), max(step.ended for step in steps))
    apart = [event.span for event in lineage.learner if event.doing in ("evaluates", "saves")]
    published = [event.span.seconds for event in lineage.learner if event.doing == "publishes"]
    sync_s, pause_s = _sync_seconds(lineage, steps[0].ended)
    return Recording(
        run=lineage.run,
        groups=groups,
        speed=speed,
        steps=len(steps),
        step_s=fmean(step.busy_s for step in steps),
        publish_s=median(published) if published else 0.0,
        sync_s=sync_s,
        pause_s=pause_s,
        wall_s=whole.seconds - sum(_overlap(whole, span) for span in apart),
    )


def _first_steps(steps: Iterable[Trained], run: RunStarted) -> list[Trained]:
    most = max(1, MAX_ANSWERS // (run.batch * run.group_size))
    return sorted(steps, key=lambda step: step.ended)[:most]


def _is_whole(group: GroupLife, group_size: int) -> bool:
    return group.end in ("trained", "filtered", "dropped", "pending") and len(group.answers) >= group_size


def _group(group: GroupLife) -> RecordedGroup:
    return RecordedGroup(
        tuple(answer.tokens for answer in group.answers),
        group.scored.span.seconds if group.scored else 0.0,
        group.end != "filtered",
    )


def _speed(lineage: Lineage) -> SpeedModel | None:
    legs = {name: lineage.legs_on(name) for name in lineage.engines}
    pauses = {
        name: [sync.paused for sync in lineage.syncs if sync.worker == name and sync.paused is not None]
        for name in lineage.engines
    }
    return fit_speed(legs, pauses, max_running=lineage.run.max_running)


def _sync_seconds(lineage: Lineage, since: float) -> tuple[float, float]:
    """Delivery of a version to all engines, and an engine's pause in it; what was sent before training is a drill."""
    syncs = [s for s in lineage.syncs if s.began >= since and s.failure is None and s.stream == "target"]
    if not syncs:
        return 0.0, 0.0
    versions = {sync.version for sync in syncs}
    spans = [[sync.span for sync in syncs if sync.version == version] for version in versions]
    deliveries = [max(span.end for span in own) - min(span.start for span in own) for own in spans]
    pauses = [sync.paused.seconds if sync.paused else 0.0 for sync in syncs]
    return median(deliveries), median(pauses)


def _overlap(one: Span, other: Span) -> float:
    return max(0.0, min(one.end, other.end) - max(one.start, other.start))
