"""Names the culprit when something takes too long, and says what to do about it.

Pure: what is in flight and the time in (monotonic seconds), findings out; it acts on nothing itself. The ladder:

1. an overdue item is tried elsewhere (`retry`);
2. an actor with several overdue items, or one whose item was retried before, is restarted (`restart`);
3. one that was restarted too often, or whose restart did not help, is taken out (`quarantine`);
4. an item that its actor's quarantine did not free has nothing left to be tried: `stop`. So does the run when the
   learner has starved beyond its limit and every item in flight is overdue, or none is in flight at all.

Invariants: an item within its limit is never in a finding; every overdue item is acted on, alone or with its actor. An
action gives what it concerns a fresh limit, and if that passes too, the next rung follows: no finding is given twice,
and what nobody acts on ends in `stop`. An item that waits in a queue has no actor (`""`) to blame: it is retried once,
then only the learner's limit judges. After `stop` there are no findings.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from orchestrator.policies.restart_budget import RestartBudget

Phase = Literal["queued", "sampling", "scoring"]
Action = Literal["retry", "restart", "quarantine", "stop"]


@dataclass(frozen=True, slots=True)
class InFlight:
    """One thing that somebody works on: an answer, or a whole group (`sample` None).

    Attributes:
        prompt: the prompt's id.
        actor: who works on it; empty while it waits for a place.
        since: when this phase began on this actor; with the same `since` it is the same attempt.
        retries: attempts before this one.
    """

    group: int
    prompt: str
    sample: int | None
    actor: str
    phase: Phase
    since: float
    retries: int

    def __str__(self) -> str:
        answer = "" if self.sample is None else f", answer {self.sample}"
        place = f" on {self.actor}" if self.actor else ""
        return f"group {self.group} ({self.prompt}){answer}{place}"


@dataclass(frozen=True, slots=True)
class Finding:
    """What to do, and why, in one line.

    Attributes:
        item: the oldest item that the finding is about; None when the learner starves and nothing is in flight.
        age_s: seconds that the item is in its phase, or that the learner has waited.
        action: `retry` concerns the item, `restart` and `quarantine` its actor, `stop` the run.
    """

    item: InFlight | None
    age_s: float
    action: Action
    text: str


@dataclass(frozen=True, slots=True)
class _Act:
    """The last thing that was done about an actor."""

    action: Literal["restart", "quarantine"]
    at: float


class Watchdog:
    """Args:
    limits: seconds that an item may be in each phase.
    learner_limit_s: seconds that the learner may wait for a batch.
    restarts: how often an actor may be found here to need a `restart`, which is booked at once. Whoever carries it out
        keeps a budget of its own, or it would be booked twice.
    several: overdue items of one actor that make it the culprit.
    """

    def __init__(
        self, limits: Mapping[Phase, float], *, learner_limit_s: float, restarts: RestartBudget, several: int = 3
    ) -> None:
        self._limits, self._learner_limit_s = dict(limits), learner_limit_s
        self._restarts, self._several = restarts, several
        self._retried: dict[InFlight, float] = {}
        self._acts: dict[str, _Act] = {}
        self._stopped = False

    def judge(self, items: Sequence[InFlight], now: float, *, learner_waits_since: float | None) -> tuple[Finding, ...]:
        """What is to be done now; call it at every tick with all that is in flight.

        Args:
            learner_waits_since: when the learner began to wait for a batch; None while it does not.
        """
        if self._stopped:
            return ()
        self._retried = {item: at for item in items if (at := self._retried.get(item)) is not None}
        overdue = sorted((item for item in items if self._is_overdue(item, now)), key=lambda item: item.since)
        if learner_waits_since is not None and len(overdue) == len(items):
            waited = now - learner_waits_since
            if waited > self._learner_limit_s:
                return (self._starved(overdue, waited, now),)
        findings: list[Finding] = []
        by_actor: dict[str, list[InFlight]] = {}
        for item in overdue:
            by_actor.setdefault(item.actor, []).append(item)
        for actor, late in by_actor.items():
            findings += self._judge_actor(actor, late, now) if actor else self._retry(late, now)
        stops = [finding for finding in findings if finding.action == "stop"]
        self._stopped = bool(stops)
        return tuple(stops[:1] or findings)

    def _is_overdue(self, item: InFlight, now: float) -> bool:
        since = max(item.since, self._retried.get(item, -math.inf))
        act = self._acts.get(item.actor)
        return now - (since if act is None else max(since, act.at)) > self._limits[item.phase]

    def _judge_actor(self, actor: str, late: Sequence[InFlight], now: float) -> list[Finding]:
        tried = [item for item in late if item.retries > 0 or item in self._retried]
        before = self._acts.get(actor)
        unfreed = [item for item in late if before is not None and item.since <= before.at]
        if not tried and not unfreed and len(late) < self._several:
            return self._retry(late, now)
        action: Action
        if before is not None and unfreed:
            action = "quarantine" if before.action == "restart" else "stop"
        else:
            action = "restart" if self._restarts.allow(actor, now) else "quarantine"
        if action != "stop":
            self._acts[actor] = _Act(action, now)
        return [self._finding((unfreed or late)[0], now, action, len(late))]

    def _retry(self, late: Sequence[InFlight], now: float) -> list[Finding]:
        fresh = [item for item in late if item not in self._retried]
        self._retried.update((item, now) for item in fresh)
        return [self._finding(item, now, "retry") for item in fresh]

    def _starved(self, overdue: Sequence[InFlight], waited: float, now: float) -> Finding:
        self._stopped = True
        text = f"the learner has waited for {waited:.0f} s (limit {self._learner_limit_s:g} s), and "
        if not overdue:
            return Finding(None, waited, "stop", f"{text}nothing is in flight: stop")
        oldest = self._finding(overdue[0], now, "stop")
        return Finding(
            oldest.item,
            oldest.age_s,
            "stop",
            f"{text}all that is in flight ({len(overdue)}) is overdue; the oldest: {oldest.text}",
        )

    def _finding(self, item: InFlight, now: float, action: Action, late: int = 1) -> Finding:
        age_s = now - item.since
        others = f", {late} of its items overdue" if late > 1 else ""
        what = {
            "retry": "retry elsewhere" if item.actor else "queue it anew",
            "restart": f"restart {item.actor}",
            "quarantine": f"quarantine {item.actor}",
            "stop": "stop",
        }[action]
        overdue = f"{item.phase} for {age_s:.0f} s (limit {self._limits[item.phase]:g} s)"
        return Finding(item, age_s, action, f"{item}: {overdue}{others}: {what}")
