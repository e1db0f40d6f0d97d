"""What the metrics read, of what a run says anyway: its steps' rows, its events, and where everybody stands.

Pure. Invariant: nothing is measured here; each reading repeats what metrics.jsonl, events.jsonl or the screen shows.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from orchestrator.monitoring import catalogue as of
from orchestrator.monitoring.catalogue import LOGGED, Metric
from orchestrator.monitoring.scene import Scene
from orchestrator.run_events import (
    Dispatched,
    DrafterStudied,
    Event,
    GroupLost,
    LearnerDid,
    ModelSilent,
    Quarantined,
    RewardFailed,
    Sampled,
    Scored,
    Speculated,
    Synced,
    Trained,
    WatchdogActed,
    WorkerJoined,
    WorkerLost,
)


@dataclass(frozen=True, slots=True)
class Reading:
    """Attributes:
    value: what a gauge shows from now on, what a counter grows by, or what a histogram observes.
    labels: values of the metric's labels, in their order.
    """

    metric: Metric
    value: float
    labels: tuple[str, ...] = ()


def of_step(step: int, row: Mapping[str, float]) -> Iterator[Reading]:
    """Of what trackers get after a step or an evaluation; entries that the list does not name are left out."""
    yield Reading(of.STEP, step)
    for entry, value in row.items():
        family, slash, member = entry.partition("/")
        if entry in LOGGED:
            yield Reading(LOGGED[entry], value)
        elif slash and family + slash in LOGGED:
            yield Reading(LOGGED[family + slash], value, (member,))


def of_scene(scene: Scene) -> Iterator[Reading]:
    for engine in scene.engines:
        here = (engine.name,)
        yield Reading(of.RUNNING, engine.running, here)
        yield Reading(of.LIMIT, engine.limit, here)
        yield Reading(of.KV_USE, engine.kv_use, here)
        yield Reading(of.WEIGHTS_VERSION, engine.version, here)
    yield Reading(of.WAITING, scene.waiting)
    yield Reading(of.TO_SCORE, scene.to_score)
    yield Reading(of.BUFFERED, scene.buffered)
    yield Reading(of.IN_FLIGHT, scene.in_flight)
    yield Reading(of.ASIDE, scene.aside)
    for actor, share in scene.idle.items():
        yield Reading(of.IDLE, share, (actor,))


def of_event(event: Event) -> Iterator[Reading]:
    match event:
        case Dispatched() | Scored() | GroupLost() | Trained():
            yield from _of_prompts(event)
        case Sampled():
            yield Reading(of.ANSWERS, 1, (event.finish,))
            yield Reading(of.SAMPLED_TOKENS, sum(segment.tokens for segment in event.segments))
            if event.legs:
                yield Reading(of.ANSWER_SECONDS, event.legs[-1].finished_at - event.legs[0].submitted_at)
        case RewardFailed():
            yield Reading(of.REWARD_FAILURES, 1, (event.kind, event.term))
        case ModelSilent():
            yield Reading(of.REWARD_FALLBACKS, 1, (event.kind, event.term))
        case Quarantined():
            yield Reading(of.QUARANTINED, 1)
        case Synced():
            yield from _of_sync(event)
        case WorkerLost():
            yield Reading(of.LOST, 1, (event.worker,))
        case WorkerJoined():
            yield Reading(of.JOINED, 1, (event.worker,))
        case WatchdogActed():
            yield Reading(of.WATCHDOG, 1, (event.action,))
        case LearnerDid():
            yield Reading(of.LEARNER_SECONDS, event.span.seconds, (event.doing,))
        case Speculated():
            for phase in event.phases:
                yield Reading(of.DECODING_STEPS, phase.steps, (str(phase.k),))
                yield Reading(of.DRAFTS, phase.drafts)
                yield Reading(of.ACCEPTED, phase.accepted)
        case DrafterStudied():
            yield Reading(of.DRAFTERS, 1, ("kept" if event.published is None else "published",))


def _of_prompts(event: Dispatched | Scored | GroupLost | Trained) -> Iterator[Reading]:
    match event:
        case Dispatched():
            yield Reading(of.PROMPTS, 1, ("dispatched",))
        case Trained():
            yield Reading(of.PROMPTS, len(event.groups), ("trained",))
        case GroupLost():
            yield Reading(of.PROMPTS, 1, (event.event,))
        case Scored():
            if event.end == "filtered":
                yield Reading(of.PROMPTS, 1, (event.end,))
            for seconds in event.seconds:
                yield Reading(of.REWARD_SECONDS, seconds)


def _of_sync(event: Synced) -> Iterator[Reading]:
    verdict = "attested" if event.failure is None else "failed"
    yield Reading(of.SYNCS, 1, (event.stream, verdict))
    yield Reading(of.SYNC_SECONDS, event.span.seconds, (event.stream,))
    if event.paused is not None:
        yield Reading(of.PAUSE_SECONDS, event.paused.seconds, (event.stream,))
    if event.gap_mean is not None:
        yield Reading(of.PROBE_GAP, event.gap_mean, (event.worker,))
