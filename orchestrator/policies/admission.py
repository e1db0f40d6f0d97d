"""When groups start, and what a complete batch does to those that still run: two ways of one dispatcher.

- `Continuous`: groups start whenever the staleness rule has room; nothing is ever cut.
- `Rounds`: a round samples the batch of one version. It starts more groups (and answers) than the batch needs, and is
  cut when the batch is complete. What is left over is resumed in the next round (APRIL, arXiv 2509.18521), waits for a
  long round of its own (RollPacker's tail batching, arXiv 2509.21009), or is dropped.

Pure: an account in, a plan out. Invariants: never more is started than can still be trained before the run ends, so
that nothing is left over then; a long round is not over-sampled, so every prompt that was cut is trained in the end.
"""

import math
from dataclasses import dataclass
from typing import Literal, Protocol

from orchestrator.policies.staleness import StalenessRule

Leftovers = Literal["resume", "long_round", "drop"]


@dataclass(frozen=True, slots=True)
class Account:
    """The dispatcher's groups now.

    Attributes:
        version: newest weight version that counts for admission.
        accepted: reached the buffer since the run began, and were not dropped from it.
        running: in flight.
        unfinished: answers of those that are still to be sampled to their end.
        aside: cut before, waiting to be started again.
        wanted: to be accepted over the whole run.
    """

    version: int
    accepted: int
    running: int
    unfinished: int
    aside: int
    wanted: int

    @property
    def fresh_wanted(self) -> int:
        """New prompts that the run can still use, when all others are trained in the end."""
        return max(0, self.wanted - self.accepted - self.running - self.aside)


@dataclass(frozen=True, slots=True)
class Plan:
    """Groups to start now: those set aside first, oldest first, then new prompts.

    Attributes:
        over_sampled: each with more answers than wanted.
    """

    again: int
    fresh: int
    over_sampled: bool = False


class Admission(Protocol):
    """A policy of the dispatcher."""

    @property
    def leftovers(self) -> Leftovers | None:
        """What happens to groups in flight when a batch is complete; None lets them run."""

    def plan(self, account: Account) -> Plan: ...

    def answers(self, wanted: int) -> int:
        """Answers to start in an over-sampled group of `wanted`."""


@dataclass(frozen=True, slots=True)
class Continuous:
    """As far ahead as the staleness rule allows, but not before the engines have places for the answers.

    A group starts when it keeps places from falling empty, so that the time until it is too stale goes by on an engine
    and not in the queue. A synchronous batch may wait there: nothing makes it staler.

    Attributes:
        places: answers that all engines together sample at a time.
        group_size: answers of a group.
    """

    rule: StalenessRule
    places: int
    group_size: int

    @property
    def leftovers(self) -> None:
        return None

    def plan(self, account: Account) -> Plan:
        room = self.rule.capacity(version=account.version, accepted=account.accepted, running=account.running)
        if self.rule.max_staleness > 0:
            room = min(room, max(0, (self.places + self.group_size - account.unfinished) // self.group_size))
        return Plan(0, min(room, account.fresh_wanted))

    def answers(self, wanted: int) -> int:
        return wanted


class Rounds:
    """Args:
    batch: groups.
    prompts, answers: started per one wanted, at least 1.
    """

    def __init__(self, *, batch: int, prompts: float, answers: float, leftovers: Leftovers) -> None:
        self._batch = batch
        self._prompts, self._answers, self._leftovers = prompts, answers, leftovers
        self._round = -1
        self._long = False

    @property
    def leftovers(self) -> Leftovers:
        return self._leftovers

    def plan(self, account: Account) -> Plan:
        """Fill the round of `account.version`; nothing once its batch is complete."""
        missing = min((account.version + 1) * self._batch, account.wanted) - account.accepted
        if missing <= 0:
            return Plan(0, 0)
        if account.version != self._round:
            self._round = account.version
            self._long = self._leftovers == "long_round" and (account.aside >= missing or not account.fresh_wanted)
        factor = 1.0 if self._long else self._prompts
        room = math.ceil(missing * factor) - account.running
        if room <= 0:
            return Plan(0, 0)
        if self._long or self._leftovers == "resume":
            again = min(room, account.aside)
        else:  # A short round leaves the long queue alone, unless new prompts do not suffice.
            again = min(account.aside, max(0, missing - account.running - account.fresh_wanted))
        return Plan(again, min(room - again, account.fresh_wanted), over_sampled=not self._long)

    def answers(self, wanted: int) -> int:
        return math.ceil(wanted * self._answers)
