"""Scored groups that wait for the learner.

Invariants: groups leave oldest first (by admitted version, then by dispatch), each once; they leave only if no other
group becomes too stale by it (`StalenessRule.leaves_time_for`), where the caller says which others there are. With
`max_staleness` 0 this makes batch k exactly the k-th `batch` accepted dispatches, in order.
"""

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence

from orchestrator.policies.groups import ScoredGroup
from orchestrator.policies.staleness import StalenessRule


class GroupBuffer:
    def __init__(self, rule: StalenessRule) -> None:
        self._rule = rule
        self._groups: dict[int, ScoredGroup] = {}
        self._versions: Counter[int] = Counter()

    def __len__(self) -> int:
        return len(self._groups)

    def put(self, group: ScoredGroup) -> None:
        if group.index in self._groups:
            raise ValueError(f"group {group.index} is in the buffer already")
        self._groups[group.index] = group
        self._versions[group.admitted_version] += 1

    def take(
        self, *, version: int, least: int, most: int, others: Mapping[int, int] | None
    ) -> tuple[ScoredGroup, ...] | None:
        """The oldest groups, for the batch of `version`; None while fewer than `least` may leave.

        Args:
            most: places that are empty in that batch.
            others: groups in flight, by admitted version; None lets groups leave whatever becomes of the others.
        """
        oldest = heapq.nsmallest(most, self._groups, key=self._age)
        # A part of a batch may leave where the whole would take the place that an older group still needs.
        for count in range(len(oldest), least - 1, -1):
            leaving = oldest[:count]
            if others is None or self._all_in_time(leaving, version, most - count, others):
                return tuple(self._remove(index) for index in leaving)
        return None

    def clear(self) -> tuple[ScoredGroup, ...]:
        """Take everything out, oldest first."""
        return tuple(self._remove(index) for index in sorted(self._groups, key=self._age))

    def _age(self, index: int) -> tuple[int, int]:
        """A group that was set aside before its first token may be younger than its number says."""
        return self._groups[index].admitted_version, index

    def _all_in_time(self, leaving: Sequence[int], version: int, places: int, others: Mapping[int, int]) -> bool:
        rest = self._versions + Counter(others)
        rest.subtract(self._groups[index].admitted_version for index in leaving)
        return self._rule.leaves_time_for(rest, version=version, places=places)

    def _remove(self, index: int) -> ScoredGroup:
        group = self._groups.pop(index)
        self._versions[group.admitted_version] -= 1
        if not self._versions[group.admitted_version]:
            del self._versions[group.admitted_version]
        return group
