"""The events of a run as typed records, and the reading of events.jsonl.

One record per kind that a reader after the run needs; other kinds are skipped, so that a log of a newer writer can
still be read. Invariants: what `read_events` yields has the types that the records state (checked line by line); a
last line that a killed run left half-written is tolerated, any other damage is an error that names its line. All times
are seconds since the epoch. Writer: `orchestrator.run_log`.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, JsonValue, TypeAdapter, ValidationError

from actors.engine import FinishReason
from actors.trajectory import Leg
from learners.errors import first_line
from orchestrator.errors import PacelineError
from orchestrator.policies.late import LatePolicy
from orchestrator.policies.watchdog import Action


class LogError(PacelineError):
    """An events.jsonl that cannot be read as a run."""


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of time, `start` <= `end`."""

    start: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class SegmentTokens:
    """How many tokens of an answer were sampled in a row under one version."""

    version: int
    tokens: int


def _row_of(record: "type[Span | SegmentTokens | Leg | Phase]") -> BeforeValidator:
    """Reads a record that the log writes as an array, its fields in order; what has a default may be left out."""
    names = [field.name for field in fields(record)]

    def named(row: object) -> object:
        if isinstance(row, list | tuple) and len(row) <= len(names):
            return dict(zip(names, row, strict=False))
        return row

    return BeforeValidator(named)


Began = Annotated[float, Field(alias="from")]
Ended = Annotated[float, Field(alias="to")]
SpanRow = Annotated[Span, _row_of(Span)]
LegRow = Annotated[Leg, _row_of(Leg)]
SegmentRow = Annotated[SegmentTokens, _row_of(SegmentTokens)]


@dataclass(frozen=True, slots=True)
class RunStarted:
    """The settings that a reader needs. `batch` counts groups; `max_running` is per engine; `over_sampling` None means
    that prompts start continuously; `tensor_parallel` is the number of accelerators of one engine."""

    time: float
    batch: int
    group_size: int
    max_staleness: int
    steps: int
    workers: tuple[str, ...]
    max_running: int
    kv_policy: str = "keep"
    late: LatePolicy = "wait"
    hard_staleness: int = 8
    over_sampling: Mapping[str, JsonValue] | None = None
    learner_ranks: int = 1
    partial: bool = True
    stream: bool = False
    tensor_parallel: int = 1


@dataclass(frozen=True, slots=True)
class Dispatched:
    time: float
    group: int
    prompt: str
    version: int


@dataclass(frozen=True, slots=True)
class Suspended:
    """A group was taken off the engines; `tokens` holds what each of its answers had by then, in sample order."""

    time: float
    group: int
    action: Literal["resume", "long_round", "drop"]
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Resumed:
    time: float
    group: int
    version: int


@dataclass(frozen=True, slots=True)
class Sampled:
    """One answer came off the engines for good; `abort`: it was cut and nobody will continue it."""

    time: float
    group: int
    sample: int
    legs: tuple[LegRow, ...]
    segments: tuple[SegmentRow, ...]
    finish: FinishReason


@dataclass(frozen=True, slots=True)
class Scored:
    """A group's rewards, in sample order, where the group went, and how long the scoring of each answer took."""

    time: float
    group: int
    began: Began
    ended: Ended
    rewards: tuple[float, ...]
    end: Literal["buffered", "filtered"]
    seconds: tuple[float, ...] = ()

    @property
    def span(self) -> Span:
        return Span(self.began, self.ended)


@dataclass(frozen=True, slots=True)
class GroupLost:
    """A group that will never be trained on, and why."""

    time: float
    event: Literal["failed", "dropped"]
    group: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class GroupInStep:
    """A group's share in a step: the greatest staleness of each of its samples, and which samples counted as late."""

    group: int
    staleness: tuple[int, ...]
    late: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Trained:
    """One gradient step. `version` is the learner's before the step; `parts` are the pieces of a streamed batch."""

    time: float
    step: int
    version: int
    began: Began
    ended: Ended
    groups: tuple[GroupInStep, ...]
    parts: tuple[SpanRow, ...] = ()

    @property
    def span(self) -> Span:
        return Span(self.began, self.ended)

    @property
    def busy_s(self) -> float:
        """Seconds in which the learner computed: a streamed batch waits between its parts."""
        if not self.parts:
            return self.ended - self.began
        return sum(part.seconds for part in self.parts) + max(0.0, self.ended - self.parts[-1].end)


@dataclass(frozen=True, slots=True)
class LearnerDid:
    """`doing`: waits, trains, publishes, evaluates or saves."""

    time: float
    doing: str
    began: Began
    ended: Ended

    @property
    def span(self) -> Span:
        return Span(self.began, self.ended)


@dataclass(frozen=True, slots=True)
class Synced:
    """One engine received one version (or failed to) of the target or of the drafter; `paused` is when it sampled
    nothing for it, `gap_mean` how far it and the learner are apart on the probe, nats."""

    time: float
    worker: str
    version: int
    began: Began
    ended: Ended
    paused: SpanRow | None = None
    failure: str | None = None
    stream: Literal["target", "drafter"] = "target"
    gap_mean: float | None = None

    @property
    def span(self) -> Span:
        return Span(self.began, self.ended)


@dataclass(frozen=True, slots=True)
class RewardFailed:
    """An answer that got the fallback; `term` was at work, "" where nobody knows."""

    time: float
    sample: str
    kind: str
    term: str = ""


@dataclass(frozen=True, slots=True)
class ModelSilent:
    """A model could not tell a term about an answer, and the term's own value took the place of its verdict."""

    time: float
    sample: str
    kind: str
    term: str = ""


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A prompt whose answers are scored no more."""

    time: float
    prompt: str
    reason: str


@dataclass(frozen=True, slots=True)
class WorkerLost:
    time: float
    worker: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class WorkerJoined:
    time: float
    worker: str
    version: int


@dataclass(frozen=True, slots=True)
class WatchdogActed:
    """Something took too long: see `orchestrator.policies.watchdog`."""

    time: float
    action: Action
    age_s: float


@dataclass(frozen=True, slots=True)
class Phase:
    """Steps of an engine with one draft length `k`, in one bucket of batch sizes, named by its smallest.

    Attributes:
        drafts: answers that had a draft verified, step by step; `accepted` of their drafted tokens stayed.
    """

    running: int
    k: int
    steps: int
    drafts: int
    accepted: int
    emitted: int
    seconds: float


PhaseRow = Annotated[Phase, _row_of(Phase)]


@dataclass(frozen=True, slots=True)
class Speculated:
    """What an engine's steps since its last report brought."""

    time: float
    worker: str
    phases: tuple[PhaseRow, ...]


@dataclass(frozen=True, slots=True)
class SpeculationFailed:
    time: float
    worker: str
    reason: str


@dataclass(frozen=True, slots=True)
class DrafterStudied:
    """A session of the drafter's training: see `orchestrator.drafting.school.Session`."""

    time: float
    began: Began
    ended: Ended
    place: str
    why_there: str
    why: str
    steps: int
    seconds: float
    published: int | None
    loss: float | None = None
    acceptance: float | None = None
    verdict: str | None = None


@dataclass(frozen=True, slots=True)
class DrafterTakenBack:
    time: float
    version: int
    to: int
    reason: str


@dataclass(frozen=True, slots=True)
class RunEnded:
    time: float
    status: str


Event = (
    RunStarted
    | Dispatched
    | Suspended
    | Resumed
    | Sampled
    | Scored
    | GroupLost
    | Trained
    | LearnerDid
    | Synced
    | RewardFailed
    | ModelSilent
    | Quarantined
    | WorkerLost
    | WorkerJoined
    | WatchdogActed
    | Speculated
    | SpeculationFailed
    | DrafterStudied
    | DrafterTakenBack
    | RunEnded
)

_ROW = TypeAdapter(dict[str, object])
_READERS: dict[str, TypeAdapter[Event]] = {
    "run_started": TypeAdapter(RunStarted),
    "dispatched": TypeAdapter(Dispatched),
    "suspended": TypeAdapter(Suspended),
    "resumed": TypeAdapter(Resumed),
    "sampled": TypeAdapter(Sampled),
    "scored": TypeAdapter(Scored),
    "failed": TypeAdapter(GroupLost),
    "dropped": TypeAdapter(GroupLost),
    "trained": TypeAdapter(Trained),
    "learner": TypeAdapter(LearnerDid),
    "sync": TypeAdapter(Synced),
    "reward_error": TypeAdapter(RewardFailed),
    "reward_fallback": TypeAdapter(ModelSilent),
    "quarantined": TypeAdapter(Quarantined),
    "worker_lost": TypeAdapter(WorkerLost),
    "worker_joined": TypeAdapter(WorkerJoined),
    "watchdog": TypeAdapter(WatchdogActed),
    "speculated": TypeAdapter(Speculated),
    "speculation_failed": TypeAdapter(SpeculationFailed),
    "drafter_studied": TypeAdapter(DrafterStudied),
    "drafter_taken_back": TypeAdapter(DrafterTakenBack),
    "run_ended": TypeAdapter(RunEnded),
}


def event_of(row: Mapping[str, object]) -> Event | None:
    """The record of one event; None for a kind that nobody here reads.

    Raises:
        pydantic.ValidationError: the event lacks something or has it in another type.
    """
    reader = _READERS.get(str(row.get("event")))
    return None if reader is None else reader.validate_python(row)


def read_events(path: Path) -> Iterator[Event]:
    """The events of a file, in its order.

    Raises:
        LogError: the file cannot be read, or a line other than a torn last one is not an event.
    """
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise LogError(f"{path} cannot be read: {error.strerror}") from error
    for number, line in enumerate(lines, start=1):
        try:
            event = event_of(_ROW.validate_python(json.loads(line)))
        except ValueError as error:  # pydantic's ValidationError is one
            if number == len(lines) and not line.endswith(b"\n"):
                return
            raise LogError(f"{path}, line {number}: not an event ({_what(error)})") from error
        if event is not None:
            yield event


def _what(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return first_line(error)
