"""The trace: it keeps the rules of the format, and its lanes say what happened."""

import json
from collections import defaultdict
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue

from orchestrator.analysis.lineage import Lineage
from orchestrator.analysis.occupancy import load_of, stretches_of
from orchestrator.analysis.trace import MAX_POINTS, activity_of, trace_of
from orchestrator.analysis.trace_writer import Slice, packed
from orchestrator.run_events import Span
from tests.orchestrator.event_builders import (
    START,
    Row,
    asynchronous_run,
    dispatched,
    lineage_from,
    log_normal_lengths,
    run_started,
    sampled,
    scored,
    sync,
    synchronous_run,
    trained,
)

Event = dict[str, JsonValue]
T = START
REQUIRED = {
    "M": {"name", "pid", "tid", "args"},
    "X": {"name", "cat", "pid", "tid", "ts", "dur", "args"},
    "C": {"name", "pid", "ts", "args"},
    "s": {"name", "cat", "id", "pid", "tid", "ts"},
    "f": {"name", "cat", "id", "pid", "tid", "ts", "bp"},
}
"""Keys that the format's definition requires of each phase that the trace uses."""


def synchronous() -> Lineage:
    return lineage_from(synchronous_run(log_normal_lengths(96, seed=5), batch=4, group_size=4, engines=2))


def asynchronous() -> Lineage:
    lengths = log_normal_lengths(128, seed=6)
    return lineage_from(asynchronous_run(lengths, batch=4, group_size=4, engines=2, slots=8, max_staleness=2))


def events_of(lineage: Lineage, **settings: int) -> list[Event]:
    trace = json.loads(json.dumps(trace_of(lineage, **settings)))
    return list(trace["traceEvents"])


def number(event: Event, key: str) -> int:
    value = event[key]
    assert isinstance(value, int)
    return value


def lanes(events: list[Event]) -> dict[tuple[str, str], list[Event]]:
    """Slices by the names of process and thread, in order of time."""
    process: dict[int, str] = {}
    thread: dict[tuple[int, int], str] = {}
    for event in events:
        args = event.get("args")
        if event["ph"] == "M" and isinstance(args, dict) and "name" in args:
            if event["name"] == "process_name":
                process[number(event, "pid")] = str(args["name"])
            else:
                thread[number(event, "pid"), number(event, "tid")] = str(args["name"])
    named: dict[tuple[str, str], list[Event]] = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            pid, tid = number(event, "pid"), number(event, "tid")
            named[process[pid], thread[pid, tid]].append(event)
    return named


@pytest.mark.parametrize("lineage", [synchronous(), asynchronous()], ids=["synchronous", "asynchronous"])
def test_a_trace_keeps_the_rules_of_the_format(lineage: Lineage) -> None:
    events = events_of(lineage)
    for event in events:
        missing = REQUIRED[str(event["ph"])] - event.keys()
        assert not missing, f"{event} lacks {missing}"
        assert number(event, "ts") >= 0
        assert number(event, "dur") >= 0 if "dur" in event else True
    times = [number(event, "ts") for event in events]
    assert times == sorted(times)
    for lane in lanes(events).values():
        for one, following in pairwise(lane):
            assert number(one, "ts") + number(one, "dur") <= number(following, "ts")


@pytest.mark.parametrize("lineage", [synchronous(), asynchronous()], ids=["synchronous", "asynchronous"])
def test_every_arrow_leaves_an_answer_and_reaches_the_step_that_trained_it(lineage: Lineage) -> None:
    events = events_of(lineage)
    slices = [event for event in events if event["ph"] == "X"]

    def bound(arrow: Event) -> Event:
        here = [s for s in slices if (s["pid"], s["tid"]) == (arrow["pid"], arrow["tid"])]
        at = number(arrow, "ts")
        (covering,) = [s for s in here if number(s, "ts") <= at < number(s, "ts") + number(s, "dur")]
        return covering

    begins = {event["id"]: bound(event) for event in events if event["ph"] == "s"}
    ends = {event["id"]: bound(event) for event in events if event["ph"] == "f"}
    assert begins.keys() == ends.keys() == {step.step for step in lineage.steps}
    for step, origin in begins.items():
        assert isinstance(origin["args"], dict)
        assert origin["args"]["step"] == step
        assert ends[step]["name"] == f"step {step}"


def test_the_lanes_of_a_synchronous_round_are_as_computed_by_hand() -> None:
    """Four answers on one engine: three end at 2 s and 4 s, the last at 10 s; then a step, then a sync with a pause."""
    rows: list[Row] = [
        run_started(batch=4, group_size=1, steps=1, workers=["a"]),
        *(dispatched(T + 1, group) for group in range(4)),
        *(sampled(group, 0, [("a", T + 1, T + end, 10)]) for group, end in enumerate((2, 2, 4, 10))),
        *(scored(group, T + 10, T + 11, [1.0]) for group in range(4)),
        trained(1, T + 11, T + 13, [(group, [0]) for group in range(4)]),
        sync("a", 1, T + 13, T + 15, pause_s=0.5),
        {"time": T + 16, "event": "run_ended", "status": "completed", "idle": {}},
    ]
    named = lanes(events_of(lineage_from(rows)))
    activity = [(s["name"], number(s, "ts") / 1e6, number(s, "dur") / 1e6) for s in named["a", "activity"]]
    assert activity == [
        ("idle", 0, 1),
        ("generation", 1, 3),
        ("tail", 4, 6),
        ("idle", 10, 3),
        ("sync", 13, 1.5),
        ("paused", 14.5, 0.5),
        ("idle", 15, 1),
    ]
    assert [s["name"] for s in named["a", "weights"]] == ["weights v1"]
    assert [s["name"] for s in named["learner", "steps"]] == ["step 1"]
    assert sum(len(lane) for (process, _), lane in named.items() if process == "rewards") == 4


def test_answers_say_their_tokens_versions_and_finish() -> None:
    rows = [
        run_started(batch=1, group_size=1, steps=1, workers=["a", "b"]),
        dispatched(T, 0),
        sampled(0, 0, [("a", T, T + 1, 10), ("b", T + 2, T + 3, 5)], segments=[(0, 10), (1, 5)], finish="length"),
    ]
    named = lanes(events_of(lineage_from(rows)))
    (first,), (second,) = named["a", "answers"], named["b", "answers"]
    assert first["name"] == second["name"] == "0/0"
    assert isinstance(first["args"], dict)
    wanted = {"tokens": 15, "tokens_here": 10, "versions": "v0: 10, v1: 5", "finish": "length", "leg": "1 of 2"}
    assert wanted.items() <= first["args"].items()


def test_the_counter_separates_what_runs_from_what_waits() -> None:
    rows: list[Row] = [run_started(batch=1, group_size=3, steps=1, workers=["a"], max_running=2), dispatched(T, 0)]
    rows += [sampled(0, sample, [("a", T, T + 1 + sample, 10)]) for sample in range(3)]
    counts = [(event["ts"], event["args"]) for event in events_of(lineage_from(rows)) if event["ph"] == "C"]
    assert counts == [
        (0, {"running": 2, "waiting": 1}),
        (1_000_000, {"running": 2, "waiting": 0}),
        (2_000_000, {"running": 1, "waiting": 0}),
        (3_000_000, {"running": 0, "waiting": 0}),
    ]


def test_a_long_run_keeps_its_longest_answers_and_says_how_many_it_leaves_out() -> None:
    lineage = asynchronous()
    trace = trace_of(lineage, max_answers=10)
    assert isinstance(trace["otherData"], dict)
    assert trace["otherData"]["answers_left_out"] == len(lineage.answers) - 10
    named = lanes(events_of(lineage, max_answers=10))
    drawn = {s["name"] for (_, thread), lane in named.items() if thread.startswith("answers") for s in lane}
    longest = sorted(lineage.answers, key=lambda answer: answer.sampling_s, reverse=True)[:10]
    assert drawn == {answer.name for answer in longest}


def test_a_counter_has_no_more_points_than_a_screen_shows() -> None:
    rows = [run_started(batch=1, group_size=1, steps=1, workers=["a"])]
    for group in range(MAX_POINTS):
        rows += [dispatched(T + group, group), sampled(group, 0, [("a", T + group, T + group + 0.5, 1)])]
    points = [event for event in events_of(lineage_from(rows), max_answers=1) if event["ph"] == "C"]
    assert MAX_POINTS / 2 < len(points) <= MAX_POINTS + 1
    assert points[-1]["args"] == {"running": 0, "waiting": 0}


SPANS = st.lists(
    st.tuples(st.integers(0, 50), st.integers(1, 30)).map(lambda pair: Span(pair[0], pair[0] + pair[1])), max_size=40
)


@given(spans=SPANS)
def test_packing_uses_as_many_lanes_as_slices_ever_overlap(spans: list[Span]) -> None:
    packing = packed(Slice(span, "x") for span in spans)
    assert len(packing) == max((load.answers for load in load_of(spans)), default=0)
    assert sum(len(lane) for lane in packing) == len(spans)
    for lane in packing:
        assert all(one.span.end <= following.span.start for one, following in pairwise(lane))


@given(answers=SPANS, syncs=SPANS, paused=SPANS)
def test_an_engine_does_one_thing_at_a_time_without_gaps(
    answers: list[Span], syncs: list[Span], paused: list[Span]
) -> None:
    pieces = activity_of(load_of(answers), paused=paused, syncs=syncs, whole=Span(-1, 100))
    assert (pieces[0].span.start, pieces[-1].span.end) == (-1, 100)
    assert all(one.span.end == following.span.start for one, following in pairwise(pieces))
    for piece in pieces:
        middle = (piece.span.start + piece.span.end) / 2
        works = any(span.start < middle < span.end for span in answers)
        assert (piece.name in ("generation", "tail")) <= works
        assert (piece.name in ("idle", "sync")) <= (not works)
        assert (piece.name == "paused") == any(span.start <= middle <= span.end for span in paused)


def test_a_stretch_ends_when_its_tail_is_refilled() -> None:
    """Eight answers drain to two (a quarter: its tail), then eight more come: the second stretch begins there."""
    spans = [*(Span(0, 4) for _ in range(6)), *(Span(0, 9) for _ in range(2)), *(Span(6, 8) for _ in range(8))]
    first, second = stretches_of(load_of(spans))
    assert (first.span, first.fullest, first.tail_from) == (Span(0, 6), 8, 4)
    assert (second.span, second.fullest, second.tail_from) == (Span(6, 9), 10, 8)
