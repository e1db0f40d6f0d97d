"""How far apart the rewards of a group usually are: what a filter compares a group with.

Invariant: what is noted counts only after `turn`, when the step is over, so that the order in which groups of a step
finish does not matter.
"""

from dataclasses import dataclass, replace
from statistics import fmean, pstdev

RATE = 0.1
"""Share of the way that the average goes towards a new step's mean."""


@dataclass(frozen=True, slots=True)
class SpreadMemory:
    """Attributes:
    usual: moving average of the steps' mean standard deviations; None before the first step.
    noted: deviations of this step's groups so far.
    """

    usual: float | None = None
    noted: tuple[float, ...] = ()

    def note(self, rewards: tuple[float, ...]) -> "SpreadMemory":
        """A group's rewards; of fewer than two nobody can tell."""
        return replace(self, noted=(*self.noted, pstdev(rewards))) if len(rewards) > 1 else self

    def turn(self) -> "SpreadMemory":
        """A step is over."""
        if not self.noted:
            return self
        new = fmean(sorted(self.noted))
        return SpreadMemory(new if self.usual is None else self.usual + RATE * (new - self.usual))
