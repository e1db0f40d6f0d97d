"""Admission and staleness: how many groups may start, and which the next batch must wait for.

Pure: counts in, counts out. The rule (AReaL, arXiv 2505.24298, section 5.1), in groups:

    capacity = (max_staleness + version + 1) * batch - (accepted + running)

where `accepted` counts every group that reached the buffer since the run began (filtered, dropped and failed groups
do not count, so that others are dispatched in their place). AReaL's other term, a bound on what runs at once, is the
admission policy's: it counts answers there.

The rule alone bounds nothing: a group that takes long can be overtaken by younger ones for as long as it likes. What
closes the gap is `leaves_time_for`: groups may leave the buffer only if the rest could still be trained in time, a
batch per version, oldest first. Invariant, for late groups that are waited for (`late: wait`): no trained token is
staler than `max_staleness`, and no group has to be thrown away for it. Why this never blocks for good: when a group is
admitted at version a, while the learner is at v >= a, the rule leaves at most (max_staleness + a + 1 - v) * batch
groups outstanding, so in order of age each is trained at max_staleness + a at the latest; younger groups do not move
it, and a batch that would is held back until the older ones have finished. Guaranteed by `Dispatcher` (asks `capacity`
before it admits) and `GroupBuffer`.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StalenessRule:
    """All counts are groups. `max_staleness` 0 makes the run synchronous."""

    batch: int
    max_staleness: int

    def capacity(self, *, version: int, accepted: int, running: int) -> int:
        """How many groups may be admitted now, at least 0. `version` is the newest that counts for admission."""
        return max(0, (self.max_staleness + version + 1) * self.batch - (accepted + running))

    def leaves_time_for(self, others: Mapping[int, int], *, version: int, places: int = 0) -> bool:
        """Whether groups may be trained at `version` without making these others too stale.

        Args:
            others: how many other groups, buffered or in flight, were admitted at each version.
            places: still empty in the batch of `version` after the groups in question.
        """
        before = 0
        for admitted in sorted(others):
            before += others[admitted]
            last_trained_at = version + (before - 1 - places) // self.batch + 1
            if others[admitted] and last_trained_at - admitted > self.max_staleness:
                return False
        return True
