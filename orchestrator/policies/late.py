"""What becomes of answers that are older than the staleness bound when their group's turn to be trained comes.

Pure. An answer is late if its oldest token would be staler than `max_staleness`; the policy has a name:
- `wait`: the buffer holds batches back so that no answer becomes late (`StalenessRule.leaves_time_for`);
- `train`: late answers are trained all the same, with importance correction, up to the bound `hard`; beyond it their
  group is dropped;
- `drop`: a group with a late answer is dropped, whole: what is left of it would be its short answers;
- `baseline_only`: late answers count in the group's baseline and get no gradient; a group of late answers alone is
  dropped.

Invariant: with every policy but `train`, no token that takes gradient is staler than `max_staleness`; with `train`,
none is staler than `hard`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

LatePolicy = Literal["wait", "train", "drop", "baseline_only"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Answers by their number in the group. `dropped` says why the group cannot be trained, if it cannot."""

    late: frozenset[int]
    masked: frozenset[int]
    dropped: str | None


@dataclass(frozen=True, slots=True)
class LateRule:
    """Bounds in versions."""

    policy: LatePolicy
    max_staleness: int
    hard: int

    def judge(self, oldest: Sequence[int], *, version: int) -> Verdict:
        """Judge a group that is about to be trained.

        Args:
            oldest: version of each answer's oldest token.
            version: the learner's version.
        """
        ages = [version - first for first in oldest]
        late = frozenset(number for number, age in enumerate(ages) if age > self.max_staleness)
        return Verdict(late, late if self.policy == "baseline_only" else frozenset(), self._why_dropped(ages, late))

    def _why_dropped(self, ages: Sequence[int], late: frozenset[int]) -> str | None:
        greatest = max(ages)
        if self.policy == "train" and greatest > self.hard:
            return f"staleness {greatest} exceeds rollout.hard_staleness={self.hard}"
        if self.policy == "drop" and late:
            return f"staleness {greatest} exceeds rollout.max_staleness={self.max_staleness}"
        if self.policy == "baseline_only" and len(late) == len(ages):
            return f"all {len(ages)} answers exceed rollout.max_staleness={self.max_staleness}"
        return None
