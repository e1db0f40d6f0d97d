"""What an advantage estimator is given, what it returns, and the registry of all of them."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import fmean

from learners.registry import Registry


@dataclass(frozen=True, slots=True)
class GroupRewards:
    """What became of the answers to one prompt, in order of sampling.

    Attributes:
        rewards: finite, at least one.
        terms: of each answer, the named values that its reward was made of; empty where nobody asks.
        greedy: reward of a greedy answer to the same prompt; None but for an estimator that needs `greedy_answer`.
        parts: number of each answer's subgroup; empty but for an estimator that needs `budgets`.
    """

    rewards: tuple[float, ...]
    terms: tuple[Mapping[str, float], ...] = ()
    greedy: float | None = None
    parts: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.rewards or not all(map(math.isfinite, self.rewards)):
            raise ValueError(f"a group needs finite rewards, at least one: {self.rewards}")

    @property
    def uniform(self) -> bool:
        """Whether all answers got one reward."""
        return len(set(self.rewards)) == 1

    @property
    def mean(self) -> float:
        """Of the rewards; of equal rewards exactly their value, which a sum of floats need not give."""
        return self.rewards[0] if self.uniform else fmean(self.rewards)

    @property
    def std(self) -> float:
        """Population standard deviation of the rewards; of equal rewards exactly 0."""
        mean = self.mean
        return math.sqrt(fmean((reward - mean) ** 2 for reward in self.rewards))


AdvantageEstimator = Callable[..., tuple[float, ...]]
"""From `GroupRewards`, and options by keyword, to one advantage per answer."""
ADVANTAGES: Registry[AdvantageEstimator] = Registry("algorithm.advantage")
