"""How long a step takes, by batch size and draft length, fitted while the engine runs.

Pure. The model, for n running requests and k drafted tokens each:

    t_target(n, k) = a + b * n * (k + 1)        reading the weights once, and computing the tokens
    t_draft(n, k)  = c + d * n + e * k          the drafter's pass that keeps its KV in step, and k passes of its own

The drafter's part is nothing while it is detached. Coefficients are times, so never negative (`nonnegative.solve`).

Invariants:
- a record beyond `OUTLIER` times what was predicted, or below 1/`OUTLIER` of it, counts as one at that bound, and the
  less the farther it is beyond;
- what the records say nothing about stays at the prior's shape, scaled to the time of the first records (their median);
- an observation costs some twenty additions; the fit itself is made anew every `REFIT_EVERY` records.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from actors.speculation.nonnegative import solve, solve_linear

OUTLIER = 2.0
REFIT_EVERY = 64
SCALE_FROM = 128
"""Records whose median sets the scale of the prior, and that are judged anew by every fit made of them: the first steps
of an engine are slow for reasons of their own, and the prior may be far off."""
PASSES = 3
MEMORY = 2000
"""Records after which an old one weighs 1/e: the cost moves slowly, with the length of the contexts."""
NOISE = 0.1
"""Relative deviation of one step that the uncertainty reckons with."""
DOUBTS = (0.5, 1.0, 1.0, 10.0, 2.0)
"""Relative deviation of the prior's coefficients a, b, c, d, e from the truth. What the drafter's pass costs for each
further request is the least known: that is mostly the head over the vocabulary, which drafters have or share or cut."""

Features = tuple[float, float, float, float, float]


@dataclass(frozen=True, slots=True)
class CostPrior:
    """What is assumed before anything was measured, in units of a target pass over one token.

    Attributes:
        knee_tokens: tokens of a pass that double its time: below, a pass costs what reading the weights costs. A few
            hundred on an accelerator, some tens on a CPU.
        draft_pass: the drafter's pass at one token.
        draft_token: each further drafted token.
    """

    knee_tokens: float = 256.0
    draft_pass: float = 0.1
    draft_token: float = 0.05

    def __post_init__(self) -> None:
        if min(self.knee_tokens, self.draft_pass, self.draft_token) <= 0:
            raise ValueError("knee_tokens, draft_pass and draft_token must be positive")


class StepCost:
    """Seconds of a step; `version` counts its fits."""

    def __init__(self, prior: CostPrior) -> None:
        pass_token = prior.draft_pass / prior.knee_tokens
        self._shape = (1.0, 1 / prior.knee_tokens, prior.draft_pass, pass_token, prior.draft_token)
        self._coefficients: Sequence[float] = self._shape
        self._scaled: Sequence[float] = self._shape
        self._first: list[tuple[Features, float]] = []
        self._normal = [[0.0] * 5 for _ in range(5)]
        self._target = [0.0] * 5
        self._covariance: list[list[float]] = []
        self._seen = 0
        self.version = 0
        self._fit()

    @property
    def known(self) -> bool:
        """Whether anything was observed; before, predictions are in units of a target pass over one token."""
        return self._seen > 0

    def seconds(self, running: int, k: int, attached: bool) -> float:
        a, b, c, d, e = self._coefficients
        target = a + b * running * (k + 1)
        return target + c + d * running + e * k if attached else target

    def draft_seconds(self, running: int, k: int) -> float:
        """The drafter's share of a step."""
        _, _, c, d, e = self._coefficients
        return c + d * running + e * k

    def read_seconds(self, tokens: int) -> float:
        """A pass of the drafter over this many tokens that it missed."""
        _, _, c, d, _ = self._coefficients
        return c + d * tokens

    def ratio(self, running: int, k: int, attached: bool, *, base_attached: bool) -> tuple[float, float]:
        """Time of this step over that of one without drafts, and the standard deviation of its logarithm."""
        step, base = self.seconds(running, k, attached), self.seconds(running, 0, base_attached)
        pairs = zip(_features(running, k, attached), _features(running, 0, base_attached), self._scaled, strict=True)
        vector = [(x / step - y / base) * scale for x, y, scale in pairs]
        variance = sum(
            x * sum(c * y for c, y in zip(row, vector, strict=True))
            for x, row in zip(vector, self._covariance, strict=True)
        )
        return step / base, math.sqrt(max(0.0, variance))

    def observe(self, running: int, k: int, attached: bool, seconds: float) -> None:
        features = _features(running, k, attached)
        self._seen += 1
        if self._seen <= SCALE_FROM:
            self._first.append((features, seconds))
            if self._seen & (self._seen - 1) == 0:
                self._start_over()
            return
        self._add(features, seconds)
        if self._seen % REFIT_EVERY == 0 or self._seen & (self._seen - 1) == 0:
            self._fit()

    def _start_over(self) -> None:
        """Fit the first records from scratch, at their own scale."""
        unit = median(seconds / _dot(features, self._shape) for features, seconds in self._first)
        self._scaled = tuple(share * unit for share in self._shape)
        self._coefficients = self._scaled
        for _ in range(PASSES):
            self._normal = [[0.0] * 5 for _ in range(5)]
            self._target = [0.0] * 5
            for features, seconds in self._first:
                self._add(features, seconds)
            self._fit()

    def _add(self, features: Features, seconds: float) -> None:
        predicted = _dot(features, self._coefficients)
        ratio, weight = seconds / predicted, 1.0
        if not 1 / OUTLIER <= ratio <= OUTLIER:
            bound = OUTLIER if ratio > OUTLIER else 1 / OUTLIER
            weight = min(bound / ratio, ratio / bound) ** 2
            ratio = bound
        u = [x * scale / predicted for x, scale in zip(features, self._scaled, strict=True)]
        for i, left in enumerate(u):
            if left:
                left *= weight
                self._target[i] += left * ratio
                row = self._normal[i]
                for j in range(i, 5):
                    row[j] += left * u[j]

    def _fit(self) -> None:
        """Coefficients in units of the prior's, of which each is 1 +- its doubt before any record."""
        pull = [(NOISE / doubt) ** 2 for doubt in DOUBTS]
        normal = [[self._normal[min(i, j)][max(i, j)] for j in range(5)] for i in range(5)]
        for i in range(5):
            normal[i][i] += pull[i]
        units = solve(normal, [value + own for value, own in zip(self._target, pull, strict=True)])
        # The target's pass always takes time: without it, a division by nothing.
        units[0] = max(units[0], 1e-3)
        self._coefficients = tuple(unit * scale for unit, scale in zip(units, self._scaled, strict=True))
        columns = [solve_linear(normal, [float(i == j) for i in range(5)]) for j in range(5)]
        self._covariance = [[NOISE**2 * value for value in column] for column in columns]
        self.version += 1
        if self._seen > SCALE_FROM:
            keep = math.exp(-REFIT_EVERY / MEMORY)
            self._normal = [[keep * value for value in row] for row in self._normal]
            self._target = [keep * value for value in self._target]


def _features(running: int, k: int, attached: bool) -> Features:
    if attached:
        return (1.0, running * (k + 1.0), 1.0, float(running), float(k))
    return (1.0, running * (k + 1.0), 0.0, 0.0, 0.0)


def _dot(features: Features, coefficients: Sequence[float]) -> float:
    a, b, c, d, e = coefficients
    return a * features[0] + b * features[1] + c * features[2] + d * features[3] + e * features[4]
