"""A run's lineage as a Chrome trace: open trace.json in ui.perfetto.dev or chrome://tracing.

Every actor is a process with named threads:
- each engine: a counter of its answers (running, waiting), what it does (generation, tail, paused, sync, idle), the
  weight updates it took, and the answers themselves;
- the learner: what it does, and its gradient steps, each with an arrow from the answer that it waited for longest;
- the rewards: the groups that are scored.

An engine's activity is one thing at a time: paused, else tail or generation (something runs; both as
`orchestrator.analysis.occupancy` defines them), else sync (nothing runs, and weights arrive), else idle.

Pure. Invariant: the file stays small; beyond `max_answers` only the longest answers are drawn, and `otherData` says how
many were left out. Format and threads: `orchestrator.analysis.trace_writer`.
"""

import heapq
from collections.abc import Iterable, Iterator, Sequence

from pydantic import JsonValue

from actors.trajectory import Leg
from orchestrator.analysis.lineage import Lineage, TrajectoryLife
from orchestrator.analysis.occupancy import Load, load_of, stretches_of
from orchestrator.analysis.trace_writer import Flow, Slice, TraceWriter
from orchestrator.run_events import Span

MAX_ANSWERS = 20_000
MAX_POINTS = 5_000
"""Points of one counter, and scored groups drawn: more than a screen shows."""
DOING = {
    "waits": "waiting",
    "trains": "training",
    "publishes": "publishing",
    "evaluates": "evaluating",
    "saves": "saving",
}


def trace_of(lineage: Lineage, *, max_answers: int = MAX_ANSWERS) -> dict[str, JsonValue]:
    """The trace as a JSON object, ready for `json.dump`."""
    answers = lineage.answers
    shown = sorted(answers, key=lambda answer: answer.sampling_s, reverse=True)[:max_answers]
    arrows = {answer.name: step for step, answer in _awaited(lineage, shown).items()}
    writer = TraceWriter(lineage.run.time)
    for number, name in enumerate(lineage.engines, start=1):
        writer.process(number, name)
        _write_engine(writer, lineage, number, name)
        drawn = [
            _answer(answer, leg, arrows.get(answer.name) if leg == answer.legs[-1] else None)
            for answer in shown
            for leg in answer.legs
            if leg.worker == name
        ]
        writer.lanes(number, "answers", drawn)
    learner = len(lineage.engines) + 1
    writer.process(learner, "learner")
    _write_learner(writer, lineage, learner, set(arrows.values()))
    writer.process(learner + 1, "rewards")
    scored = [group.scored for group in lineage.groups if group.scored is not None]
    longest = heapq.nlargest(MAX_POINTS, scored, key=lambda event: event.span.seconds)
    writer.lanes(
        learner + 1, "scoring", [Slice(event.span, f"group {event.group}", {"end": event.end}) for event in longest]
    )
    return {
        "displayTimeUnit": "ms",
        "otherData": {
            "answers": len(answers),
            "answers_left_out": len(answers) - len(shown),
            "groups_scored_left_out": len(scored) - len(longest),
        },
        "traceEvents": [*writer.in_order()],
    }


def activity_of(loads: Sequence[Load], *, paused: Sequence[Span], syncs: Sequence[Span], whole: Span) -> list[Slice]:
    """What an engine does at each moment of `whole`, one thing at a time, without gaps."""
    layers = [Slice(whole, "idle"), *(Slice(sync, "sync") for sync in syncs)]
    for stretch in stretches_of(loads):
        note: dict[str, JsonValue] = {"fullest": stretch.fullest}
        layers.append(Slice(stretch.span, "generation", note))
        if stretch.tail_from is not None:
            layers.append(Slice(Span(stretch.tail_from, stretch.span.end), "tail", note))
    layers += [Slice(pause, "paused") for pause in paused]
    return list(_topmost(layers))


def _topmost(layers: Sequence[Slice]) -> Iterator[Slice]:
    """The layer named last among those that cover each time; what shows of a layer without a break is one slice."""
    edges = sorted(
        edge
        for number, layer in enumerate(layers)
        if layer.span.seconds > 0
        for edge in ((layer.span.start, number), (layer.span.end, ~number))
    )
    top: list[int] = []
    closed: set[int] = set()
    since, showing = 0.0, None
    for place, (at, edge) in enumerate(edges):
        if edge >= 0:
            heapq.heappush(top, -edge)
        else:
            closed.add(~edge)
        if place + 1 < len(edges) and edges[place + 1][0] == at:
            continue
        while top and -top[0] in closed:
            heapq.heappop(top)
        now = -top[0] if top else None
        if now == showing:
            continue
        if showing is not None:
            yield Slice(Span(since, at), layers[showing].name, layers[showing].args)
        since, showing = at, now


_STREAMS = {"target": "weights", "drafter": "drafter"}


def _write_engine(writer: TraceWriter, lineage: Lineage, process: int, name: str) -> None:
    loads = load_of(Span(leg.submitted_at, leg.finished_at) for leg in lineage.legs_on(name))
    for at, answers in _thinned(loads):
        running = min(answers, lineage.run.max_running)
        writer.counter(process, "answers", at, {"running": running, "waiting": answers - running})
    syncs = [sync for sync in lineage.syncs if sync.worker == name]
    pauses = [sync.paused for sync in syncs if sync.paused is not None]
    ends = [lineage.last_event_at, *(load.end for load in loads[-1:])]
    whole = Span(lineage.run.time, max(ends))
    writer.lanes(process, "activity", activity_of(loads, paused=pauses, syncs=[s.span for s in syncs], whole=whole))
    writer.lanes(
        process,
        "weights",
        [
            Slice(s.span, f"{_STREAMS[s.stream]} v{s.version}", {"failure": s.failure} if s.failure else {})
            for s in syncs
        ],
    )


def _write_learner(writer: TraceWriter, lineage: Lineage, process: int, arrows: set[int]) -> None:
    writer.lanes(
        process, "activity", [Slice(event.span, DOING.get(event.doing, event.doing)) for event in lineage.learner]
    )
    steps: list[Slice] = []
    for step in lineage.steps:
        ages = [age for group in step.groups for age in group.staleness]
        args: dict[str, JsonValue] = {
            "version": step.version,
            "groups": len(step.groups),
            "staleness_max": max(ages, default=0),
            "late": sum(len(group.late) for group in step.groups),
        }
        flow = Flow(step.step, begins=False) if step.step in arrows else None
        steps.append(Slice(step.span, f"step {step.step}", args, flow))
    writer.lanes(process, "steps", steps)
    parts = [Slice(part, f"step {step.step}") for step in lineage.steps for part in step.parts]
    writer.lanes(process, "parts of steps", parts)


def _answer(answer: TrajectoryLife, leg: Leg, arrow: int | None) -> Slice:
    args: dict[str, JsonValue] = {
        "prompt": answer.prompt,
        "tokens": answer.tokens,
        "tokens_here": leg.tokens,
        "versions": ", ".join(f"v{segment.version}: {segment.tokens}" for segment in answer.segments),
        "finish": answer.finish,
        "end": answer.end,
    }
    if answer.step is not None:
        args |= {"step": answer.step, "staleness": answer.staleness}
    if len(answer.legs) > 1:
        args["leg"] = f"{answer.legs.index(leg) + 1} of {len(answer.legs)}"
    flow = None if arrow is None else Flow(arrow, begins=True)
    return Slice(Span(leg.submitted_at, leg.finished_at), answer.name, args, flow)


def _awaited(lineage: Lineage, shown: Iterable[TrajectoryLife]) -> dict[int, TrajectoryLife]:
    """Of each step, the answer that came off the engines last, where it is drawn."""
    last: dict[int, TrajectoryLife] = {}
    for answer in lineage.answers:
        if answer.step is None or not answer.legs:
            continue
        if answer.step not in last or answer.legs[-1].finished_at > last[answer.step].legs[-1].finished_at:
            last[answer.step] = answer
    drawn = {answer.name for answer in shown}
    return {step: answer for step, answer in last.items() if answer.name in drawn}


def _thinned(loads: Sequence[Load]) -> Iterator[tuple[float, int]]:
    """When the load changes and to what, at most `MAX_POINTS` times: of each bin of time the last change."""
    if not loads:
        return
    points = [*((load.start, load.answers) for load in loads), (loads[-1].end, 0)]
    begin, width = points[0][0], (points[-1][0] - points[0][0]) / MAX_POINTS
    for place, (at, answers) in enumerate(points):
        last = place + 1 == len(points)
        if len(points) <= MAX_POINTS or last or int((points[place + 1][0] - begin) / width) > int((at - begin) / width):
            yield at, answers
