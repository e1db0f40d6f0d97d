"""Thompson sampling on the logarithm of the rate: arms are tried as often as they may be the best.

For each arm, means and variances with exponential forgetting of the tokens of a step and of the logarithm of its
seconds (times are positive and their noise multiplies; a time far out is drawn in before it counts). A draw from the
belief about log(mean tokens) - mean log(seconds) decides. An arm that is clearly worse is hardly ever tried, two close
ones share the steps.
"""

import math
import random
from collections.abc import Sequence

from actors.speculation.arms import ArmTable
from actors.speculation.cost_model import CostModels
from actors.speculation.selectors.selector import SELECTORS

MEMORY = 64.0
"""Most samples that a belief is worth, so that it never grows certain."""
LEAST_DEVIATION = 0.05
"""Of the log rate of one step, at least; a few equal steps must not look like certainty."""
FAR_OUT = 3.0
"""Standard deviations beyond which a time is drawn in."""


@SELECTORS.register("thompson")
class Thompson:
    """Args:
    memory: most samples that a belief is worth.
    """

    def __init__(self, table: ArmTable, costs: CostModels, seed: int, *, memory: float = MEMORY) -> None:
        del costs  # It believes only what it saw.
        if memory < 2:
            raise ValueError(f"memory must be at least 2, not {memory:g}")
        self._random = random.Random(seed)
        self._memory = memory
        self._beliefs = [[_Belief() for _ in table.arms] for _ in table.buckets]
        self._rates = [[0.0] * len(table.arms) for _ in table.buckets]
        self._counts = [[0] * len(table.arms) for _ in table.buckets]

    def rates(self, bucket: int) -> Sequence[float]:
        return self._rates[bucket]

    def samples(self, bucket: int) -> Sequence[int]:
        return self._counts[bucket]

    def explore(self, bucket: int, arms: Sequence[int], untested: Sequence[int]) -> int | None:
        if untested:
            return untested[0]
        beliefs, rates = self._beliefs[bucket], self._rates[bucket]
        best = max(range(len(rates)), key=rates.__getitem__)
        drawn = {arm: beliefs[arm].draw(self._random) for arm in {*arms, best} if rates[arm]}
        if not drawn:
            return None
        choice = max(drawn, key=drawn.__getitem__)
        return choice if choice in arms and choice != best else None

    def learn(self, bucket: int, arm: int, rate: float, seconds: float, running: int) -> None:
        belief = self._beliefs[bucket][arm]
        belief.learn(rate * seconds, math.log(seconds), self._memory)
        self._publish(bucket, arm)

    def discount(self, keep: float) -> None:
        for bucket, beliefs in enumerate(self._beliefs):
            for arm, belief in enumerate(beliefs[1:], start=1):
                belief.weight *= keep
                self._publish(bucket, arm)

    def _publish(self, bucket: int, arm: int) -> None:
        belief = self._beliefs[bucket][arm]
        self._counts[bucket][arm] = round(belief.weight)
        self._rates[bucket][arm] = math.exp(belief.log_rate) if round(belief.weight) else 0.0


class _Belief:
    """About one arm in one bucket."""

    __slots__ = ("spread", "time", "time_spread", "tokens", "weight")

    def __init__(self) -> None:
        self.weight = 0.0
        self.tokens = self.spread = self.time = self.time_spread = 0.0

    @property
    def log_rate(self) -> float:
        return math.log(self.tokens) - self.time

    def learn(self, tokens: float, log_seconds: float, memory: float) -> None:
        if round(self.weight) == 0:
            self.weight, self.tokens, self.time = 1.0, tokens, log_seconds
            self.spread = self.time_spread = 0.0
            return
        self.weight = min(self.weight + 1, memory)
        gain = 1 / self.weight
        late = log_seconds - self.time
        # The first few are taken as they are: with one of them wrong, drawing in the others would keep it right.
        if self.weight > 5:
            bound = FAR_OUT * max(LEAST_DEVIATION, math.sqrt(self.time_spread))
            late = min(max(late, -bound), bound)
        more = tokens - self.tokens
        self.time += gain * late
        self.tokens += gain * more
        self.time_spread = (1 - gain) * (self.time_spread + gain * late * late)
        self.spread = (1 - gain) * (self.spread + gain * more * more)

    def draw(self, source: random.Random) -> float:
        variance = max(LEAST_DEVIATION**2, self.time_spread + self.spread / self.tokens**2)
        return source.gauss(self.log_rate, math.sqrt(variance / max(self.weight, 1.0)))
