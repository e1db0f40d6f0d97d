"""Admission and staleness: how many groups may start, and which the next batch must wait for.

Pure: counts in, counts out. The rule (AReaL, arXiv 2505.24298, section 5.1), in groups:

    capacity = min(max_concurrent - running, (max_staleness + version + 1) * batch - (accepted + running))

where `accepted` counts every group that reached the buffer since the run began (filtered, dropped and failed groups
do not count, so that others are dispatched in their place).

Invariant: no trained token is staler than `max_staleness`, and no group has to be thrown away for it. A batch takes the
oldest finished groups, and may leave only if the rest could still be trained in time, a batch per version, oldest
first (`leaves_time_for`). Why this never blocks for good: when a group is admitted at version a, while the learner is
at v >= a, the rule leaves at most (max_staleness + a + 1 - v) * batch groups outstanding, so in order of age each is
trained at max_staleness + a at the latest; younger groups do not move it, and a batch that would is held back until
the older ones have finished. Guaranteed by `Dispatcher` (asks `capacity` before it admits) and `GroupBuffer`.
"""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StalenessRule:
    """All counts are groups. `max_staleness` 0 makes the run synchronous."""

    batch: int
    max_staleness: int
    max_concurrent: int

    def capacity(self, *, version: int, accepted: int, running: int) -> int:
        """How many groups may be admitted now, at least 0. `version` is the newest that engines serve."""
        by_concurrency = self.max_concurrent - running
        by_staleness = (self.max_staleness + version + 1) * self.batch - (accepted + running)
        return max(0, min(by_concurrency, by_staleness))

    def leaves_time_for(self, others: Iterable[int], *, version: int) -> bool:
        """Whether a batch may be trained at `version` without making these others too stale.

        Args:
            others: admitted version of every other group that is buffered or in flight.
        """
        trained_at = ((version + 1 + place // self.batch, admitted) for place, admitted in enumerate(sorted(others)))
        return all(at - admitted <= self.max_staleness for at, admitted in trained_at)
