"""The `Selector` protocol, and the names that recipes choose selectors by.

A rate is tokens/s per running request, multiplied by how much longer a step without drafts takes at the batch that ran
than at the smallest of the bucket: within a bucket the batch varies, and an arm must not win because it happened to run
with a small one (the governor converts).
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from actors.speculation.arms import ArmTable
from actors.speculation.cost_model import CostModels
from learners.registry import Registry


class Selector(Protocol):
    """Beliefs about arms by bucket; arms and buckets are indices into the `ArmTable`.

    What it answers depends on what it was told and on its seed, on nothing else.
    """

    def rates(self, bucket: int) -> Sequence[float]:
        """Believed rate of every arm, 0 for those it knows nothing about. A view: it changes with the next call."""

    def samples(self, bucket: int) -> Sequence[int]:
        """How many steps the belief about each arm rests on. A view, as above."""

    def explore(self, bucket: int, arms: Sequence[int], untested: Sequence[int]) -> int | None:
        """What it would like to try now instead of the best arm; None: nothing.

        Args:
            arms: those that may be tried, without the one that runs.
            untested: those among them with too few samples to be judged, the most promising first.
        """

    def learn(self, bucket: int, arm: int, rate: float, seconds: float, running: int) -> None:
        """A step's rate, and its seconds converted likewise: with that batch, tokens per request = rate * seconds."""

    def discount(self, keep: float) -> None:
        """Let what is known of arms that draft weigh `keep` of what it did: acceptance may have changed."""


SelectorMaker = Callable[[ArmTable, CostModels, int], Selector]
"""Makes one from the arms, the cost models that the governor keeps up to date, and a seed."""

SELECTORS: Registry[SelectorMaker] = Registry("speculation.selector")
