"""The bucketed epsilon-greedy selector of TLT (BEG, arXiv 2511.16665): mostly the arm that did best of late.

TLT takes the median of the last rates. Here it is the mean of the last steps' tokens over the median of their seconds:
times have outliers that a median shrugs off, but tokens are whole numbers. With one request and two drafts in five
kept, the median step keeps none, and the best arm would look like the worst.
"""

import random
from collections import deque
from collections.abc import Sequence

from actors.speculation.arms import ArmTable
from actors.speculation.cost_model import CostModels
from actors.speculation.selectors.selector import SELECTORS

EPSILON = 0.04
"""Share of the steps that try another arm. TLT's release takes 0.1, with one arm per bucket and so without effect."""
WINDOW = 64
TOKENS_WINDOW = 4
"""So many times as many steps are kept for the tokens, which vary more and drift less than the seconds."""
CLOSE, FAR_WEIGHT = 0.8, 0.125
"""An arm below `CLOSE` of the best rate is tried so much less than one above: it costs more, and is hardly the best."""


@SELECTORS.register("epsilon_greedy")
class EpsilonGreedy:
    """Args:
    epsilon: probability to try a random other arm, each time it is asked.
    window: steps kept for each arm and bucket.
    """

    def __init__(
        self, table: ArmTable, costs: CostModels, seed: int, *, epsilon: float = EPSILON, window: int = WINDOW
    ) -> None:
        del costs  # It believes only what it saw.
        if not 0 <= epsilon < 1 or window < 1:
            raise ValueError(f"epsilon must lie in [0, 1) and window be at least 1, not {epsilon:g} and {window}")
        self._random = random.Random(seed)
        self._epsilon = epsilon
        arms = len(table.arms)
        self._windows = [[_Window(window) for _ in range(arms)] for _ in table.buckets]
        self._rates = [[0.0] * arms for _ in table.buckets]
        self._counts = [[0] * arms for _ in table.buckets]

    def rates(self, bucket: int) -> Sequence[float]:
        return self._rates[bucket]

    def samples(self, bucket: int) -> Sequence[int]:
        return self._counts[bucket]

    def explore(self, bucket: int, arms: Sequence[int], untested: Sequence[int]) -> int | None:
        if untested:
            return untested[0]
        if not arms or self._random.random() >= self._epsilon:
            return None
        rates = self._rates[bucket]
        close = CLOSE * max(rates)
        return self._random.choices(arms, [1.0 if rates[arm] >= close else FAR_WEIGHT for arm in arms])[0]

    def learn(self, bucket: int, arm: int, rate: float, seconds: float, running: int) -> None:
        self._windows[bucket][arm].add(rate * seconds, seconds)
        self._measure(bucket, arm)

    def discount(self, keep: float) -> None:
        for bucket, windows in enumerate(self._windows):
            for arm, window in enumerate(windows[1:], start=1):
                window.shorten(keep)
                self._measure(bucket, arm)

    def _measure(self, bucket: int, arm: int) -> None:
        window = self._windows[bucket][arm]
        self._counts[bucket][arm] = len(window.seconds)
        self._rates[bucket][arm] = window.rate


class _Window:
    """The last steps of an arm in a bucket: tokens per request, and seconds."""

    __slots__ = ("_total", "seconds", "tokens")

    def __init__(self, length: int) -> None:
        self.tokens = deque[float](maxlen=TOKENS_WINDOW * length)
        self.seconds = deque[float](maxlen=length)
        self._total = 0.0

    def add(self, tokens: float, seconds: float) -> None:
        if len(self.tokens) == self.tokens.maxlen:
            self._total -= self.tokens[0]
        self._total += tokens
        self.tokens.append(tokens)
        self.seconds.append(seconds)

    def shorten(self, keep: float) -> None:
        for _ in range(len(self.tokens) - round(keep * len(self.tokens))):
            self._total -= self.tokens.popleft()
        while len(self.seconds) > len(self.tokens):
            self.seconds.popleft()

    @property
    def rate(self) -> float:
        """Tokens/s per request; 0 when empty."""
        if not self.tokens:
            return 0.0
        ordered = sorted(self.seconds)
        return self._total / len(self.tokens) / ordered[len(ordered) // 2]
