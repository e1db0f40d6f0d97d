"""Takes a published drafter back when acceptance in real use turns out worse than with the version before.

Pure. Acceptance depends on the batch (few running requests: the tail's long answers) and on the draft length, which
both change all the time. So drafts are counted by stratum, and a version is compared with the one before only within
strata that both have enough drafts in, weighted by the newer one's drafts: a change of the mix alone is no fall.

Invariants: at most one rollback per version, back to the version before it; none before `least_drafts` drafts of the
new version could be compared; after `settled_drafts` of them the version is settled, and what happens later is the
target's drift, not the drafter's fault (`decay`).
"""

import math
from collections.abc import Hashable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RollbackRules:
    """Attributes:
    margin: fall of acceptance that is put up with.
    z: standard errors that a fall must exceed besides.
    least_drafts: of the new version in strata that can be compared.
    least_stratum: drafts that a stratum needs from both versions.
    settled_drafts: of the new version, after which it is not judged any more.
    """

    margin: float = 0.03
    z: float = 2.0
    least_drafts: int = 500
    least_stratum: int = 50
    settled_drafts: int = 20_000

    def __post_init__(self) -> None:
        if self.margin < 0 or self.z < 0 or self.least_stratum < 1 or self.least_drafts < self.least_stratum:
            raise ValueError("margin and z must be at least 0, least_stratum at least 1 and at most least_drafts")
        if self.settled_drafts < self.least_drafts:
            raise ValueError("settled_drafts must be at least least_drafts")


@dataclass(frozen=True, slots=True)
class RollbackVerdict:
    """Serve `to` again instead of `version`."""

    version: int
    to: int
    reason: str


class _Count:
    __slots__ = ("accepted", "drafts")

    def __init__(self) -> None:
        self.drafts = self.accepted = 0


class Rollback:
    """Args:
    version: the drafter's version that serves now, the first to be compared with.
    """

    def __init__(self, version: int, rules: RollbackRules | None = None) -> None:
        self._rules = rules or RollbackRules()
        self._version = version
        self._before: int | None = None
        self._counts: dict[Hashable, _Count] = {}
        self._reference: dict[Hashable, _Count] = {}
        self._judged = True

    @property
    def version(self) -> int:
        """The version that serves."""
        return self._version

    def published(self, version: int) -> None:
        """A newer version serves from now on.

        Raises:
            ValueError: it is not newer than the one before.
        """
        if version <= self._version:
            raise ValueError(f"version {version} is not newer than {self._version}")
        self._before, self._version = self._version, version
        self._reference, self._counts = self._counts, {}
        self._judged = False

    def observe(self, version: int, stratum: Hashable, drafts: int, accepted: int) -> None:
        """Drafted tokens and accepted ones of a version.

        Args:
            version: whose drafts they were; those of a version that does not serve any more are ignored.
            stratum: bucket of batch sizes and draft length, or whatever acceptance depends on beside the drafter.
        """
        if version != self._version:
            return
        count = self._counts.setdefault(stratum, _Count())
        count.drafts += drafts
        count.accepted += accepted

    def judge(self) -> RollbackVerdict | None:
        """Whether to go back. When it says so, the version before serves again, with what was known of it."""
        rules = self._rules
        if self._judged or self._before is None:
            return None
        common = [
            (new, old)
            for stratum, new in self._counts.items()
            if (old := self._reference.get(stratum)) is not None and min(new.drafts, old.drafts) >= rules.least_stratum
        ]
        drafts = sum(new.drafts for new, _ in common)
        if drafts < rules.least_drafts:
            return None
        fall = variance = 0.0
        for new, old in common:
            weight, mixed = new.drafts / drafts, (new.accepted + old.accepted) / (new.drafts + old.drafts)
            fall += weight * (old.accepted / old.drafts - new.accepted / new.drafts)
            variance += weight**2 * mixed * (1 - mixed) * (1 / new.drafts + 1 / old.drafts)
        error = math.sqrt(variance)
        if fall <= max(rules.margin, rules.z * error):
            self._judged = sum(count.drafts for count in self._counts.values()) >= rules.settled_drafts
            return None
        verdict = RollbackVerdict(
            self._version,
            self._before,
            f"drafter version {self._version}: acceptance fell by {fall:.3f} ± {error:.3f} against version "
            f"{self._before} over {drafts} drafts at equal batch and draft length, more than {rules.margin:g}: "
            f"back to version {self._before}",
        )
        self._version, self._before = self._before, None
        self._counts, self._reference, self._judged = self._reference, {}, True
        return verdict
