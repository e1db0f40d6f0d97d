"""When the drafter should be trained again: when it is seen to be worse than it was.

Pure: counts of drafts and times in, a verdict out. A drafter that was trained once kept its acceptance for 36 steps of
a run (marin issue 9114), others lose theirs: so training follows measured decay, not a timer.

Acceptance here must not depend on the draft length, which the governor changes all the time: feed **first** drafts,
those at position 1 of each draft. The average weighs drafts, not seconds: `memory` of them are its horizon.

Invariants of `OnDecay`: no verdict before `memory` drafts were seen since the drafter in use was published; two
trainings are at least `least_gap_s` apart; the best average is of the drafter in use, so a level that training cannot
bring back does not ask for it over and over.
"""

import math
from dataclasses import dataclass
from typing import Protocol

from learners.registry import Registry


@dataclass(frozen=True, slots=True)
class RetrainVerdict:
    """`reason` is one line, with the numbers."""

    train: bool
    reason: str


class RetrainPolicy(Protocol):
    """Asked between steps whether to train the drafter."""

    def observe(self, drafts: int, accepted: int) -> None:
        """First drafts since the last call, and how many of them were accepted."""

    def judge(self, now: float) -> RetrainVerdict:
        """Whether to begin training; `now` in monotonic seconds."""

    def began(self, now: float) -> None:
        """Training began."""

    def published(self) -> None:
        """A newly trained drafter serves from now on."""


@dataclass(frozen=True, slots=True)
class DecayRules:
    """Attributes:
    delta: fall of the average below its best that calls for training.
    relative: whether `delta` is a share of the best, or a difference of acceptance.
    memory: drafts after which an old one weighs 1/e.
    least_gap_s: seconds between the beginnings of two trainings.
    """

    delta: float = 0.05
    relative: bool = False
    memory: int = 2000
    least_gap_s: float = 60.0

    def __post_init__(self) -> None:
        if not 0 < self.delta < 1 or self.memory < 1 or self.least_gap_s < 0:
            raise ValueError("delta must lie in (0, 1), memory be at least 1 and least_gap_s at least 0")


POLICIES: Registry[type["OnDecay"] | type["Never"] | type["Always"]] = Registry("drafter.retrain")
"""Made from `DecayRules`."""


@POLICIES.register("decay")
class OnDecay:
    """Trains when acceptance fell."""

    def __init__(self, rules: DecayRules) -> None:
        self._rules = rules
        self._began_at = -math.inf
        self._forget()

    def _forget(self) -> None:
        self._average, self._best, self._seen = 0.0, 0.0, 0

    @property
    def average(self) -> float | None:
        """Moving average of acceptance; None before any draft."""
        return self._average if self._seen else None

    def observe(self, drafts: int, accepted: int) -> None:
        if drafts <= 0:
            return
        self._seen += drafts
        # A plain mean until the memory is full, so that the first drafts do not weigh more than others.
        gain = 1 - math.exp(-drafts / min(self._seen, self._rules.memory)) if self._seen > drafts else 1.0
        self._average += gain * (accepted / drafts - self._average)
        if self._seen >= self._rules.memory:
            self._best = max(self._best, self._average)

    def judge(self, now: float) -> RetrainVerdict:
        rules = self._rules
        if self._seen < rules.memory:
            return RetrainVerdict(
                False, f"only {self._seen} of {rules.memory} drafts seen since the drafter was published"
            )
        floor = self._best * (1 - rules.delta) if rules.relative else self._best - rules.delta
        levels = f"acceptance {self._average:.3f}, best {self._best:.3f}, floor {floor:.3f}"
        if self._average >= floor:
            return RetrainVerdict(False, levels)
        if now - self._began_at < rules.least_gap_s:
            return RetrainVerdict(False, f"{levels}; the last training began {now - self._began_at:.0f} s ago")
        return RetrainVerdict(True, levels)

    def began(self, now: float) -> None:
        self._began_at = now

    def published(self) -> None:
        self._forget()


@POLICIES.register("never")
class Never:
    """The drafter stays as it is: to compare with."""

    def __init__(self, rules: DecayRules) -> None:
        del rules

    def observe(self, drafts: int, accepted: int) -> None:
        pass

    def judge(self, now: float) -> RetrainVerdict:
        return RetrainVerdict(False, "the policy is never to train")

    def began(self, now: float) -> None:
        pass

    def published(self) -> None:
        pass


@POLICIES.register("always")
class Always:
    """Trains whenever it may: to compare with."""

    def __init__(self, rules: DecayRules) -> None:
        self._least_gap_s = rules.least_gap_s
        self._began_at = -math.inf

    def observe(self, drafts: int, accepted: int) -> None:
        pass

    def judge(self, now: float) -> RetrainVerdict:
        if now - self._began_at < self._least_gap_s:
            return RetrainVerdict(False, f"the last training began {now - self._began_at:.0f} s ago")
        return RetrainVerdict(True, "the policy is always to train")

    def began(self, now: float) -> None:
        self._began_at = now

    def published(self) -> None:
        pass
