"""How fast an engine decodes, by how many answers it runs: fitted to what a run recorded.

Model: one decoding step of n running answers takes `base_s` + n * `per_answer_s` seconds and adds one token to each.
Reading the weights is the first term (a memory-bound engine has nothing else), reading each answer's KV cache and
computing its token the second. Prompt processing is not modelled apart; it is spread over the tokens.

How many tokens a leg should have follows from the loads that it lived through: the sum over pieces of constant load of
seconds / step. The two terms are those with the least squared error in tokens, found by Gauss-Newton with step halving,
neither below 0; an answer's squared error is divided by its length, so that a long answer weighs as its tokens do.
Pure.
"""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from actors.trajectory import Leg
from orchestrator.analysis.occupancy import load_of
from orchestrator.run_events import Span

ROUNDS = 50
HALVINGS = 30
CONVERGED = 1e-12
"""Relative change of a term at which the search stops."""
LEAST_SPREAD = 0.05
"""Below this relative spread of loads the two terms cannot be told apart: all the time counts as `base_s`."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SpeedModel:
    """Attributes:
    base_s, per_answer_s: seconds per decoding step, and added by each running answer.
    error: mean of |predicted - observed| / observed over the legs fitted to, tokens of a leg.
    """

    base_s: float
    per_answer_s: float
    error: float = 0.0

    def step_s(self, running: int) -> float:
        """Seconds of one decoding step of `running` answers."""
        return self.base_s + running * self.per_answer_s


@dataclass(frozen=True, slots=True)
class _Timeline:
    """One engine's time in pieces: edges (n + 1,), answers running (n,) with 0 where it was paused or empty."""

    edges: Floats
    running: Floats

    def integral(self, values: Floats, legs: Sequence[Leg]) -> Floats:
        """Of a function that is constant on each piece, over each leg."""
        total = np.concatenate([[0.0], np.cumsum(values * np.diff(self.edges))])
        ends = np.interp([leg.finished_at for leg in legs], self.edges, total)
        starts = np.interp([leg.submitted_at for leg in legs], self.edges, total)
        return np.asarray(ends - starts, dtype=np.float64)


_Engines = list[tuple[_Timeline, list[Leg]]]


def fit_speed(
    legs: Mapping[str, Sequence[Leg]], pauses: Mapping[str, Sequence[Span]], *, max_running: int
) -> SpeedModel | None:
    """Fit to the legs of every engine, all of one speed; None where no token was sampled.

    Args:
        legs, pauses: by engine.
        max_running: what an engine decodes at most; the rest waits in its queue, in order of arrival.
    """
    engines: _Engines = []
    for name, own in legs.items():
        decoded = _without_queue(own, max_running)
        timeline = _timeline(decoded, pauses.get(name, ()))
        seconds = timeline.integral(np.sign(timeline.running), decoded)
        usable = [leg for leg, active in zip(decoded, seconds, strict=True) if active > 0 and leg.tokens > 0]
        if usable:
            engines.append((timeline, usable))
    if not engines:
        return None
    tokens = np.array([leg.tokens for _, own in engines for leg in own], dtype=np.float64)
    terms = _start(engines, tokens)
    if terms[1] > 0:
        terms = _descend(engines, tokens, terms)
    predicted, _ = _predict(engines, terms)
    return SpeedModel(float(terms[0]), float(terms[1]), float(np.mean(np.abs(predicted - tokens) / tokens)))


def _start(engines: _Engines, tokens: Floats) -> Floats:
    """Both terms to begin the search from; the second 0 where the loads are too alike to tell them apart."""
    active = np.concatenate([timeline.integral(np.sign(timeline.running), own) for timeline, own in engines])
    load = np.concatenate([timeline.integral(timeline.running, own) for timeline, own in engines]) / active
    second = float(np.sum(active) / np.sum(tokens))
    mean = float(np.average(load, weights=active))
    spread = float(np.average((load - mean) ** 2, weights=active))
    if spread <= (LEAST_SPREAD * mean) ** 2:
        return np.array([second, 0.0])
    return np.array([second / 2, second / 2 / mean])


def _descend(engines: _Engines, tokens: Floats, terms: Floats) -> Floats:
    weight = 1 / np.sqrt(tokens)
    predicted, slopes = _predict(engines, terms)
    error = float(np.sum((weight * (tokens - predicted)) ** 2))
    for _ in range(ROUNDS):
        step = np.linalg.lstsq(slopes * weight[:, None], weight * (tokens - predicted), rcond=None)[0]
        for _ in range(HALVINGS):
            tried = np.maximum(terms + step, 0.0)
            if tried.sum() > 0:
                predicted_there, slopes_there = _predict(engines, tried)
                error_there = float(np.sum((weight * (tokens - predicted_there)) ** 2))
                if error_there <= error:
                    break
            step = step / 2
        else:
            return terms
        moved = float(np.max(np.abs(tried - terms)))
        terms, predicted, slopes, error = tried, predicted_there, slopes_there, error_there
        if moved <= CONVERGED * float(terms.sum()):
            break
    return terms


def _predict(engines: _Engines, terms: Floats) -> tuple[Floats, Floats]:
    """Tokens of each leg (n,) under these terms, and their derivatives by both (n, 2)."""
    columns: list[Floats] = []
    for timeline, own in engines:
        # Where nothing runs there are no steps; the 1 keeps an engine without a base from dividing by 0 there.
        rate = np.sign(timeline.running) / (terms[0] + terms[1] * np.maximum(timeline.running, 1.0))
        by_base, by_answer = -(rate**2), -(rate**2) * timeline.running
        columns.append(np.stack([timeline.integral(values, own) for values in (rate, by_base, by_answer)], axis=1))
    table = np.concatenate(columns)
    return table[:, 0], table[:, 1:]


def _without_queue(legs: Sequence[Leg], max_running: int) -> list[Leg]:
    """Legs from when they began to decode: a leg that found the engine full waited for the next that ended.

    Of those that came together, which went first is not recorded; the first to end are taken to be.
    """
    decoded: list[Leg] = []
    running: list[float] = []
    for leg in sorted(legs, key=lambda leg: (leg.submitted_at, leg.finished_at)):
        began = leg.submitted_at
        while running and running[0] <= began:
            heapq.heappop(running)
        if len(running) >= max_running:
            began = heapq.heappop(running)
        began = min(began, leg.finished_at)
        heapq.heappush(running, leg.finished_at)
        decoded.append(replace(leg, submitted_at=began))
    return decoded


def _timeline(legs: Sequence[Leg], pauses: Sequence[Span]) -> _Timeline:
    loads = load_of(Span(leg.submitted_at, leg.finished_at) for leg in legs)
    if not loads:
        return _Timeline(np.zeros(2), np.zeros(1))
    bounds = [loads[0].start, *(load.end for load in loads)]
    edges = np.unique([*bounds, *(edge for pause in pauses for edge in (pause.start, pause.end))])
    middles = (edges[:-1] + edges[1:]) / 2
    place = np.searchsorted(bounds, middles) - 1
    inside = (place >= 0) & (place < len(loads))
    answers = np.array([load.answers for load in loads])[np.clip(place, 0, len(loads) - 1)]
    running = np.where(inside, answers, 0).astype(np.float64)
    for pause in pauses:
        running[(middles > pause.start) & (middles < pause.end)] = 0.0
    return _Timeline(edges, running)
