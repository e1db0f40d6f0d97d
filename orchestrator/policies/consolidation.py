"""Moves in the tail that gather the last answers on few engines, so that whole engines fall idle.

Pure (the idea: repack in Laminar, arXiv 2510.12633). An engine with a few answers left decodes them hardly faster than
one with many, so the least loaded engines give theirs away. A moved answer's KV is computed anew where it goes on.

Invariants of a plan:
- nothing moves while anything waits for a place: a free place is then worth more than an idle engine;
- a source gives away all of its answers; an engine that receives gives none away, one that is idle receives none;
- no engine is filled above `fill` of its limit, and no answer goes to an engine of older weights than it has now;
- the tokens that a source's answers cost to compute anew are at most `reprefill_bound` times the tokens they are still
  expected to sample;
- an answer that was moved before stays, and so does all that runs with it: nothing wanders.
Call it when no new work is about to start; whether that is so, a snapshot of engines cannot show.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

REPREFILL_BOUND = 4.0
"""A prefill handles tokens tens of times faster than the decoding of a few answers, so four tokens computed anew for
each one still to be sampled delay an answer by a fraction of what is ahead of it."""


@dataclass(frozen=True, slots=True)
class RunningAnswer:
    """One answer on an engine.

    Attributes:
        tokens: its sequence so far, prompt included: what must be computed anew elsewhere.
        remaining: tokens that it is still expected to sample; with no prediction, as many as it may.
    """

    request_id: str
    tokens: int
    remaining: float


@dataclass(frozen=True, slots=True)
class EngineLoadView:
    """What runs on one engine; `limit` is how many answers it may hold."""

    name: str
    answers: Sequence[RunningAnswer]
    limit: int
    version: int


@dataclass(frozen=True, slots=True)
class Move:
    """Take this answer off `source`, and go on with it on `target`."""

    request_id: str
    source: str
    target: str


def plan(
    engines: Sequence[EngineLoadView],
    *,
    waiting: int,
    fill: float,
    moved: Collection[str] = frozenset(),
    reprefill_bound: float = REPREFILL_BOUND,
) -> tuple[Move, ...]:
    """The moves to make now; the least loaded engines are emptied first, the fullest receive first.

    Args:
        waiting: answers that wait for a place anywhere.
        fill: share of an engine's limit up to which it may receive, in (0, 1].
        moved: request ids that were moved before.
    """
    if not 0 < fill <= 1:
        raise ValueError(f"fill must lie in (0, 1], not {fill:g}")
    if waiting > 0:
        return ()
    busy = sorted((e for e in engines if e.answers), key=lambda e: (len(e.answers), _tokens(e), e.name))
    free = {engine.name: math.floor(fill * engine.limit) - len(engine.answers) for engine in busy}
    targets = {engine.name: engine for engine in reversed(busy)}
    receivers: set[str] = set()
    moves: list[Move] = []
    for source in busy:
        if source.name in receivers or not _is_worth_it(source, moved, reprefill_bound):
            continue
        places = [
            target.name
            for target in targets.values()
            if target.name != source.name and target.version >= source.version
            for _ in range(free[target.name])
        ]
        if len(places) < len(source.answers):
            continue
        del targets[source.name]
        for answer, place in zip(source.answers, places, strict=False):
            moves.append(Move(answer.request_id, source.name, place))
            free[place] -= 1
            receivers.add(place)
    return tuple(moves)


def _tokens(engine: EngineLoadView) -> int:
    return sum(answer.tokens for answer in engine.answers)


def _is_worth_it(source: EngineLoadView, moved: Collection[str], reprefill_bound: float) -> bool:
    remaining = sum(answer.remaining for answer in source.answers)
    return _tokens(source) <= reprefill_bound * remaining and not any(a.request_id in moved for a in source.answers)
