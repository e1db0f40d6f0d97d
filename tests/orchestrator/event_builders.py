"""Synthetic runs as rows of events.jsonl, computed from a stated model without any of the code that reads them.

Rows, not records: the tests go through the reader that a real run's log goes through.
"""

import heapq
import random
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from orchestrator.analysis.lineage import Lineage, lineage_of
from orchestrator.run_events import event_of

Row = dict[str, object]
START = 1_000_000.0
"""Seconds since the epoch at which synthetic runs begin."""


@dataclass(frozen=True, slots=True)
class KnownModel:
    """Times in seconds; a decoding step of n answers takes base_s + n * per_answer_s."""

    base_s: float = 0.010
    per_answer_s: float = 0.001
    step_s: float = 1.5
    publish_s: float = 0.1
    sync_s: float = 0.4
    pause_s: float = 0.1
    score_s: float = 0.05


def lineage_from(rows: Sequence[Row]) -> Lineage:
    events = [event_of(row) for row in sorted(rows, key=_time)]
    return lineage_of(event for event in events if event is not None)


def run_started(*, batch: int, group_size: int, steps: int, workers: Sequence[str], **settings: object) -> Row:
    row: Row = {"batch": batch, "group_size": group_size, "steps": steps, "workers": list(workers)}
    defaults: Row = {"max_staleness": 0, "max_running": 64, "kv_policy": "keep", "late": "wait", "over_sampling": None}
    return {"time": START, "event": "run_started", **row, **defaults, "learner_ranks": 1, **settings}


def dispatched(at: float, group: int, *, version: int = 0) -> Row:
    return {"time": at, "event": "dispatched", "group": group, "prompt": f"chain_sum/{group}", "version": version}


def sampled(
    group: int,
    sample: int,
    legs: Sequence[tuple[str, float, float, int]],
    *,
    segments: Sequence[tuple[int, int]] | None = None,
    finish: str = "stop",
) -> Row:
    tokens = sum(leg[3] for leg in legs)
    rows: Row = {"legs": [list(leg) for leg in legs], "segments": [list(s) for s in segments or [(0, tokens)]]}
    return {"time": legs[-1][2], "event": "sampled", "group": group, "sample": sample, **rows, "finish": finish}


def scored(group: int, began: float, ended: float, rewards: Sequence[float], *, end: str = "buffered") -> Row:
    row: Row = {"time": ended, "event": "scored", "group": group, "from": began, "to": ended}
    return {**row, "rewards": list(rewards), "end": end}


def trained(step: int, began: float, ended: float, groups: Sequence[tuple[int, Sequence[int]]]) -> Row:
    shares = [{"group": group, "staleness": list(staleness), "late": []} for group, staleness in groups]
    row: Row = {"time": ended, "event": "trained", "step": step, "version": step - 1}
    return {**row, "from": began, "to": ended, "groups": shares}


def learner(doing: str, began: float, ended: float) -> Row:
    return {"time": ended, "event": "learner", "doing": doing, "from": began, "to": ended}


def sync(worker: str, version: int, began: float, ended: float, *, pause_s: float = 0.0) -> Row:
    paused = [ended - pause_s, ended] if pause_s else None
    row: Row = {"time": ended, "event": "sync", "worker": worker, "version": version, "from": began, "to": ended}
    return {**row, "paused": paused, "gap_mean": 0.0, "gap_max": 0.0, "failure": None}


def log_normal_lengths(count: int, *, seed: int, median: int = 100, sigma: float = 0.9, most: int = 2000) -> list[int]:
    chance = random.Random(seed)
    return [max(1, min(most, round(median * chance.lognormvariate(0.0, sigma)))) for _ in range(count)]


def synchronous_run(
    lengths: Sequence[int], *, batch: int, group_size: int, engines: int, model: KnownModel | None = None
) -> list[Row]:
    """Round after round: dispatch a batch, wait for its longest answer, score, train, publish, sync.

    Answers go to the engines in turn, so the times at which they end follow from their lengths in a closed form:
    between the end of one and the next of an engine, what remains there advances together at one speed.
    """
    model = model or KnownModel()
    names = [f"rollout-{number}" for number in range(engines)]
    size = batch * group_size
    steps = len(lengths) // size
    rows = [run_started(batch=batch, group_size=group_size, steps=steps, workers=names, max_running=size)]
    now = waits_from = START + 2.0
    for step in range(steps):
        own = lengths[step * size : (step + 1) * size]
        ends: dict[int, float] = {}
        for engine in range(engines):
            here = sorted(range(engine, size, engines), key=lambda number: own[number])
            at, done = now, 0
            for place, number in enumerate(here):
                at += (own[number] - done) * (model.base_s + (len(here) - place) * model.per_answer_s)
                ends[number], done = at, own[number]
        complete = now
        for place in range(batch):
            group = step * batch + place
            rows.append(dispatched(now, group, version=step))
            numbers = range(place * group_size, (place + 1) * group_size)
            for sample, number in enumerate(numbers):
                leg = (names[number % engines], now, ends[number], own[number])
                rows.append(sampled(group, sample, [leg], segments=[(step, own[number])]))
            last = max(ends[number] for number in numbers)
            rows.append(scored(group, last, last + model.score_s, [1.0, *[0.0] * (group_size - 1)]))
            complete = max(complete, last + model.score_s)
        groups = [(step * batch + place, [0] * group_size) for place in range(batch)]
        rows += [learner("waits", waits_from, complete), learner("trains", complete, complete + model.step_s)]
        rows.append(trained(step + 1, complete, complete + model.step_s, groups))
        published = complete + model.step_s + model.publish_s
        rows.append(learner("publishes", complete + model.step_s, published))
        waits_from, now = published, published + model.sync_s
        rows += [sync(name, step + 1, published, now, pause_s=model.pause_s) for name in names]
    return rows


def asynchronous_run(
    lengths: Sequence[int], *, batch: int, group_size: int, engines: int, slots: int, max_staleness: int
) -> list[Row]:
    """Engines of `slots` answers and constant speed, so that each slot runs for itself; batch k is made of the k-th
    groups dispatched, which start as soon as version k - max_staleness has arrived and a slot is free."""
    token_s, step_s, publish_s, sync_s = 0.02, 2.0, 0.1, 0.3
    names = [f"rollout-{number}" for number in range(engines)]
    steps = len(lengths) // (batch * group_size)
    settings: Row = {"max_staleness": max_staleness, "max_running": slots}
    rows = [run_started(batch=batch, group_size=group_size, steps=steps, workers=names, **settings)]
    begin = START + 2.0
    free = [(begin, slot % engines) for slot in range(slots * engines)]
    heapq.heapify(free)
    arrived = [begin]
    learner_free = begin
    for step in range(steps):
        complete, shares = begin, []
        for group in range(step * batch, (step + 1) * batch):
            allowed = arrived[max(0, step - max_staleness)]
            ends, oldest = [], []
            start = max(allowed, free[0][0])
            version = sum(at <= start for at in arrived) - 1
            rows.append(dispatched(start, group, version=version))
            for sample in range(group_size):
                at, engine = heapq.heappop(free)
                at, tokens = max(at, start), lengths[group * group_size + sample]
                end = at + tokens * token_s
                heapq.heappush(free, (end, engine))
                segments = _segments(at, tokens, token_s, arrived)
                rows.append(sampled(group, sample, [(names[engine], at, end, tokens)], segments=segments))
                ends.append(end)
                oldest.append(segments[0][0])
            rows.append(scored(group, max(ends), max(ends) + 0.1, [1.0, *[0.0] * (group_size - 1)]))
            complete = max(complete, max(ends) + 0.1)
            shares.append((group, [step - version for version in oldest]))
        start = max(learner_free, complete)
        rows += [learner("waits", learner_free, start), learner("trains", start, start + step_s)]
        rows.append(trained(step + 1, start, start + step_s, shares))
        learner_free = start + step_s + publish_s
        rows.append(learner("publishes", start + step_s, learner_free))
        arrived.append(learner_free + sync_s)
        rows += [sync(name, step + 1, learner_free, arrived[-1]) for name in names]
    return rows


def _segments(at: float, tokens: int, token_s: float, arrived: Sequence[float]) -> list[tuple[int, int]]:
    """Tokens by version; versions that arrive later than is known yet do not count."""
    firsts = [(version, max(0, ceil((when - at) / token_s))) for version, when in enumerate(arrived)]
    segments: list[tuple[int, int]] = []
    for place, (version, first) in enumerate(firsts):
        following = firsts[place + 1][1] if place + 1 < len(firsts) else tokens
        if min(following, tokens) > first:
            segments.append((version, min(following, tokens) - first))
    return segments


def _time(row: Row) -> float:
    time = row["time"]
    assert isinstance(time, float)
    return time
