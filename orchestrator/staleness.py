"""Admission and staleness: how many groups may start, and which the next batch must wait for.

Pure: counts in, counts out. The rule (AReaL, arXiv 2505.24298, section 5.1), in groups:

    capacity = min(max_concurrent - running, (max_staleness + version + 1) * batch - (accepted + running))

where `accepted` counts every group that reached the buffer since the run began (filtered, dropped and failed groups
do not count, so that others are dispatched in their place).

Invariant: if batches take the oldest groups first and wait for every *due* one, no trained token is staler than
`max_staleness`, and nothing has to be thrown away for it. Proof: a group admitted at version a is due at version
v = a + max_staleness. Groups admitted at versions up to a number at most (max_staleness + a + 1) * batch
= (v + 1) * batch by the rule, and v * batch of the oldest are trained already: at most one batch is due.
Guaranteed by `Dispatcher` (asks `capacity` before it admits) and `GroupBuffer` (oldest first, waits for the due).
"""

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

    def is_due(self, *, admitted_version: int, version: int) -> bool:
        """Whether a group admitted then must be in the batch trained at `version`, since a later one is too late."""
        return version - admitted_version >= self.max_staleness
