"""Lineage: the events of a run joined to the life of each trajectory.

A life says when its prompt was dispatched, on which engines it was sampled and when, under which weight versions, when
it was taken off and put back, when it was scored, and which gradient step used it how late, or how else it ended.
Pure but for `read_lineage`. Invariants: every dispatched group appears once, in the order of dispatch; every life
belongs to a group; a leg appears once, though a continued answer is reported again with all its legs.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from actors.engine import FinishReason
from actors.trajectory import Leg
from orchestrator.run_events import (
    Dispatched,
    Event,
    GroupLost,
    LearnerDid,
    LogError,
    Resumed,
    RunEnded,
    RunStarted,
    Sampled,
    Scored,
    SegmentTokens,
    Span,
    Suspended,
    Synced,
    Trained,
    WorkerJoined,
    WorkerLost,
    read_events,
)

LifeEnd = Literal["trained", "filtered", "dropped", "failed", "cut", "pending"]
"""`cut`: thrown away half-way so that a batch could leave; `pending`: the run ended first."""
EVENTS_FILE = "events.jsonl"


@dataclass(frozen=True, slots=True)
class Suspension:
    """A time off the engines.

    Attributes:
        tokens: of this answer when it was taken off.
        resumed_at: None if it never came back.
    """

    at: float
    action: str
    tokens: int
    resumed_at: float | None


@dataclass(frozen=True, slots=True)
class TrajectoryLife:
    """All that is known of one answer.

    Attributes:
        finish: `abort` if it was cut: then its length is only what had been sampled by then.
        step, staleness, late: the gradient step that used it, its greatest token staleness in it, and whether that was
            beyond the bound; None where it was not trained on.
    """

    group: int
    sample: int
    prompt: str
    dispatched_at: float
    admitted_version: int
    legs: tuple[Leg, ...]
    segments: tuple[SegmentTokens, ...]
    finish: FinishReason
    suspensions: tuple[Suspension, ...]
    scored: Span | None
    reward: float | None
    end: LifeEnd
    step: int | None
    staleness: int | None
    late: bool | None

    @property
    def name(self) -> str:
        return f"{self.group}/{self.sample}"

    @property
    def tokens(self) -> int:
        return sum(segment.tokens for segment in self.segments)

    @property
    def sampling_s(self) -> float:
        """Seconds on engines, their queues included."""
        return sum(leg.finished_at - leg.submitted_at for leg in self.legs)


@dataclass(frozen=True, slots=True)
class GroupLife:
    """A dispatched prompt with its answers, in sample order; those still on an engine at the end are missing."""

    index: int
    prompt: str
    dispatched_at: float
    admitted_version: int
    answers: tuple[TrajectoryLife, ...]
    scored: Scored | None
    end: LifeEnd
    reason: str


@dataclass(frozen=True, slots=True)
class Lineage:
    """A run, as it can be told afterwards. Sequences are in order of time, `groups` in order of dispatch."""

    run: RunStarted
    groups: tuple[GroupLife, ...]
    steps: tuple[Trained, ...]
    learner: tuple[LearnerDid, ...]
    syncs: tuple[Synced, ...]
    lost: tuple[WorkerLost, ...]
    joined: tuple[WorkerJoined, ...]
    ended: RunEnded | None
    last_event_at: float

    @property
    def answers(self) -> tuple[TrajectoryLife, ...]:
        return tuple(answer for group in self.groups for answer in group.answers)

    @property
    def engines(self) -> tuple[str, ...]:
        """Every engine that served at any time, in order of appearance."""
        names = [*self.run.workers, *(event.worker for event in self.joined)]
        return tuple(dict.fromkeys([*names, *(leg.worker for a in self.answers for leg in a.legs)]))

    def legs_on(self, engine: str) -> list[Leg]:
        """Every stay of an answer on this engine."""
        return [leg for answer in self.answers for leg in answer.legs if leg.worker == engine]

    @property
    def training(self) -> Span | None:
        """From the first dispatch to the last gradient step; None where no step was made."""
        if not self.steps or not self.groups:
            return None
        return Span(min(group.dispatched_at for group in self.groups), max(step.ended for step in self.steps))

    def serving(self, at: float) -> int:
        """Engines in service at that time, at least 1."""
        joined = sum(event.time <= at for event in self.joined)
        lost = sum(event.time <= at for event in self.lost)
        return max(1, len(self.run.workers) + joined - lost)


@dataclass(slots=True)
class _Group:
    """What has been heard of a group so far."""

    dispatched: Dispatched
    sampled: dict[int, Sampled] = field(default_factory=dict)
    legs: dict[int, dict[Leg, None]] = field(default_factory=lambda: defaultdict(dict))
    suspended: list[tuple[Suspended, Resumed | None]] = field(default_factory=list)
    scored: Scored | None = None
    lost: GroupLost | None = None
    trained: Trained | None = None


def read_lineage(run_directory: Path) -> Lineage:
    """The lineage of a run directory, finished or not.

    Raises:
        LogError: there is no readable events.jsonl of this format in it.
    """
    return lineage_of(read_events(run_directory / EVENTS_FILE))


def lineage_of(events: Iterable[Event]) -> Lineage:
    """Join events, in the order in which they were written.

    Raises:
        LogError: they do not begin with `run_started`, or speak of a group that was never dispatched.
    """
    starts: list[RunStarted] = []
    groups: dict[int, _Group] = {}
    steps: list[Trained] = []
    learner: list[LearnerDid] = []
    syncs: list[Synced] = []
    lost: list[WorkerLost] = []
    joined: list[WorkerJoined] = []
    ended: RunEnded | None = None
    last = 0.0
    for event in events:
        last = max(last, event.time)
        match event:
            case RunStarted():
                starts.append(event)
            case Dispatched():
                # A prompt that is started again keeps its number: its life began with the first dispatch.
                groups.setdefault(event.group, _Group(event))
            case Suspended() | Resumed() | Sampled() | Scored() | GroupLost():
                _hear(_known(groups, event.group), event)
            case Trained():
                steps.append(event)
                for share in event.groups:
                    _known(groups, share.group).trained = event
            case LearnerDid():
                learner.append(event)
            case Synced():
                syncs.append(event)
            case WorkerLost():
                lost.append(event)
            case WorkerJoined():
                joined.append(event)
            case RunEnded():
                ended = event
    if not starts:
        raise LogError("the log has no run_started event: nothing can be told of this run")
    lives = tuple(_group_life(groups[index]) for index in sorted(groups))
    return Lineage(
        starts[0],
        lives,
        tuple(sorted(steps, key=lambda step: step.began)),
        tuple(sorted(learner, key=lambda event: event.began)),
        tuple(sorted(syncs, key=lambda sync: sync.began)),
        tuple(lost),
        tuple(joined),
        ended,
        last,
    )


def _known(groups: dict[int, _Group], index: int) -> _Group:
    if index not in groups:
        raise LogError(f"the log speaks of group {index}, which was never dispatched")
    return groups[index]


def _hear(group: _Group, event: Suspended | Resumed | Sampled | Scored | GroupLost) -> None:
    match event:
        case Suspended():
            group.suspended.append((event, None))
        case Resumed():
            if group.suspended:
                group.suspended[-1] = (group.suspended[-1][0], event)
        case Sampled():
            group.sampled[event.sample] = event
            group.legs[event.sample].update(dict.fromkeys(event.legs))
        case Scored():
            group.scored = event
        case GroupLost():
            group.lost = event


def _group_life(group: _Group) -> GroupLife:
    start = group.dispatched
    end = _group_end(group)
    share = next((g for g in group.trained.groups if g.group == start.group), None) if group.trained else None
    kept = [number for number in sorted(group.sampled) if group.sampled[number].finish != "abort"]
    place = {number: position for position, number in enumerate(kept)}
    answers: list[TrajectoryLife] = []
    for number in sorted(group.sampled):
        sampled = group.sampled[number]
        cut = sampled.finish == "abort"
        trained = share is not None and not cut and place[number] < len(share.staleness)
        answers.append(
            TrajectoryLife(
                group=start.group,
                sample=number,
                prompt=start.prompt,
                dispatched_at=start.time,
                admitted_version=start.version,
                legs=tuple(sorted(group.legs[number], key=lambda leg: leg.submitted_at)),
                segments=sampled.segments,
                finish=sampled.finish,
                suspensions=_suspensions(group.suspended, number),
                scored=None if cut or group.scored is None else group.scored.span,
                reward=None if cut else _at(group.scored.rewards if group.scored else (), place[number]),
                end="cut" if cut else end,
                step=group.trained.step if group.trained and trained else None,
                staleness=share.staleness[place[number]] if share and trained else None,
                late=place[number] in share.late if share and trained else None,
            )
        )
    reason = group.lost.reason if group.lost else ""
    return GroupLife(start.group, start.prompt, start.time, start.version, tuple(answers), group.scored, end, reason)


def _group_end(group: _Group) -> LifeEnd:
    if group.trained is not None:
        return "trained"
    if group.lost is not None:
        return group.lost.event
    return "filtered" if group.scored is not None and group.scored.end == "filtered" else "pending"


def _suspensions(pairs: Sequence[tuple[Suspended, Resumed | None]], sample: int) -> tuple[Suspension, ...]:
    return tuple(
        Suspension(off.time, off.action, off.tokens[sample], on.time if on else None)
        for off, on in pairs
        if sample < len(off.tokens)
    )


def _at(rewards: tuple[float, ...], place: int) -> float | None:
    return rewards[place] if place < len(rewards) else None
