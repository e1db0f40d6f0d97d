"""Chooses by the cost model: expected tokens of a step over its seconds, as Seer does (T_SD, arXiv 2511.14617).

What was learnt in one bucket, and with one draft length, serves all others, so little has to be tried. Where an arm did
run in a bucket, what was measured there outweighs the model, which is a line through a curve for the seconds, and knows
drafts as chains. `TRUST_STEPS` measured steps are worth as much as the model's seconds, `TRUST_DRAFTS` measured drafts
as much as its tokens.
"""

import math
import random
from collections.abc import Sequence

from actors.speculation.arms import ArmTable
from actors.speculation.cost_model import CostModels
from actors.speculation.selectors.selector import SELECTORS

TRUST_STEPS = 4.0
TRUST_DRAFTS = 32.0
MEMORY = 64
EPSILON = 0.02
CLOSE = 0.8
"""Share of the best rate from which on an arm is worth a test of the model."""
FAR_OUT = math.log(2.0)
"""A step that takes over twice, or under half, what was expected counts as one that takes just that."""


@SELECTORS.register("model_based")
class ModelBased:
    """Args:
    epsilon: probability to test the model, each time it is asked, on the least known of the arms that are close.
    """

    def __init__(self, table: ArmTable, costs: CostModels, seed: int, *, epsilon: float = EPSILON) -> None:
        if not 0 <= epsilon < 1:
            raise ValueError(f"epsilon must lie in [0, 1), not {epsilon:g}")
        self._table, self._costs = table, costs
        self._random = random.Random(seed)
        self._epsilon = epsilon
        self._seconds = [[0.0] * len(table.arms) for _ in table.buckets]
        self._tokens = [[0.0] * len(table.arms) for _ in table.buckets]
        self._counts = [[0] * len(table.arms) for _ in table.buckets]
        self._rates = [[0.0] * len(table.arms) for _ in table.buckets]
        self._running = [bucket.first for bucket in table.buckets]
        self._versions = [-1] * len(table.buckets)

    def rates(self, bucket: int) -> Sequence[float]:
        if self._versions[bucket] != self._costs.version:
            self._versions[bucket] = self._costs.version
            for arm in self._table.buckets[bucket].arms:
                self._predict(bucket, arm)
        return self._rates[bucket]

    def samples(self, bucket: int) -> Sequence[int]:
        return self._counts[bucket]

    def explore(self, bucket: int, arms: Sequence[int], untested: Sequence[int]) -> int | None:
        rates = self.rates(bucket)
        best = max(range(len(rates)), key=rates.__getitem__)
        # Believed best, but never seen here: it must be tried before it may run.
        if best in untested:
            return best
        if not arms or self._random.random() >= self._epsilon:
            return None
        close = [arm for arm in arms if rates[arm] >= CLOSE * rates[best]]
        return min(close, key=self._counts[bucket].__getitem__) if close else None

    def learn(self, bucket: int, arm: int, rate: float, seconds: float, running: int) -> None:
        counts, measured, tokens = self._counts[bucket], self._seconds[bucket], self._tokens[bucket]
        self._running[bucket] = running
        value = math.log(seconds)
        counts[arm] = min(counts[arm] + 1, MEMORY)
        if counts[arm] == 1:
            measured[arm], tokens[arm] = value, rate * seconds
        else:
            off = value - measured[arm]
            # The first few are taken as they are: with one of them wrong, drawing in the others would keep it right.
            if counts[arm] > 5:
                off = min(max(off, -FAR_OUT), FAR_OUT)
            measured[arm] += off / counts[arm]
            tokens[arm] += (rate * seconds - tokens[arm]) / counts[arm]
        self._predict(bucket, arm)

    def discount(self, keep: float) -> None:
        for counts in self._counts:
            counts[1:] = [round(keep * count) for count in counts[1:]]

    def _predict(self, bucket: int, arm: int) -> None:
        choice, first, running = self._table.arms[arm], self._table.buckets[bucket].first, self._running[bucket]
        model, count, base = self._costs.of(choice), self._counts[bucket][arm], self._costs.base_attached
        fitted = math.log(model.step.seconds(running, choice.k, choice.k > 0 or base))
        if running != first:
            fitted += math.log(model.step.seconds(first, 0, base) / model.step.seconds(running, 0, base))
        seconds = math.exp((count * self._seconds[bucket][arm] + TRUST_STEPS * fitted) / (count + TRUST_STEPS))
        drafts = count * running
        expected = TRUST_DRAFTS * model.emitted(choice.k)
        # Before the first step of the engine seconds have no unit, and only the order of the rates means anything.
        self._rates[bucket][arm] = (drafts * self._tokens[bucket][arm] + expected) / (drafts + TRUST_DRAFTS) / seconds
