"""Scored groups that wait for the learner.

Invariants: groups leave oldest dispatch first, each once; a batch is whole or there is none; a batch leaves only if no
other group becomes too stale by it (`StalenessRule.leaves_time_for`). With `max_staleness` 0 this makes batch k exactly
the k-th `batch` accepted dispatches, in order.
"""

from collections.abc import Iterable

from orchestrator.groups import ScoredGroup
from orchestrator.staleness import StalenessRule


class GroupBuffer:
    def __init__(self, rule: StalenessRule) -> None:
        self._rule = rule
        self._groups: dict[int, ScoredGroup] = {}
        self._accepted = 0

    def __len__(self) -> int:
        return len(self._groups)

    @property
    def accepted(self) -> int:
        """Groups put in since the run began."""
        return self._accepted

    def put(self, group: ScoredGroup) -> None:
        if group.index in self._groups:
            raise ValueError(f"group {group.index} is in the buffer already")
        self._groups[group.index] = group
        self._accepted += 1

    def take(self, *, version: int, in_flight_versions: Iterable[int]) -> tuple[ScoredGroup, ...] | None:
        """The batch to train on at `version`, or None while it is not complete.

        Args:
            in_flight_versions: admitted version of every group still in flight.
        """
        if len(self._groups) < self._rule.batch:
            return None
        oldest = sorted(self._groups)
        later = [self._groups[index].admitted_version for index in oldest[self._rule.batch :]]
        if not self._rule.leaves_time_for([*later, *in_flight_versions], version=version):
            return None
        return tuple(self._groups.pop(index) for index in oldest[: self._rule.batch])
