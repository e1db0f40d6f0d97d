"""Which engine takes a waiting answer.

Pure. The least loaded of those that may: its weights are not older than the answer's version floor, it is not being
emptied, and it has a free place. The answers of one group share their prompt, so a group's engine keeps the prompt's
KV: it is preferred, unless it is busier than the least loaded one by more than the slack.

Invariants: the version floor and the limit are never violated; the same calls give the same choices (ties go by name).
Memory: one name per group, until it is forgotten.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.policies.request_queue import Ticket


@dataclass(frozen=True, slots=True)
class EngineView:
    """One engine as it stands.

    Attributes:
        version: weight version that it serves.
        running: answers that it holds, started or not.
        limit: answers that it may hold.
        draining: it shall get nothing new.
    """

    name: str
    version: int
    running: int
    limit: int
    draining: bool

    @property
    def load(self) -> float:
        """Share of its places that are taken."""
        return self.running / self.limit

    def may_take(self, ticket: Ticket) -> bool:
        return not self.draining and self.running < self.limit and self.version >= ticket.min_version


class Router:
    """Args:
    affinity_slack: answers by which a group's engine may be above the level of the least loaded; None: groups have no
        engine of their own.
    """

    def __init__(self, affinity_slack: int | None = 4) -> None:
        self._affinity_slack = affinity_slack
        self._homes: dict[int, str] = {}

    def choose(self, ticket: Ticket, engines: Sequence[EngineView]) -> str | None:
        """The engine that takes this answer, which becomes its group's; None if none may."""
        able = [engine for engine in engines if engine.may_take(ticket)]
        if not able:
            return None
        chosen = least = min(able, key=lambda engine: (engine.load, engine.name))
        if self._affinity_slack is None:
            return chosen.name
        home = next((engine for engine in able if engine.name == self._homes.get(ticket.group)), None)
        # Engines differ in their limits: compared is the number of answers above the level of the least loaded.
        if home is not None and home.running - least.load * home.limit <= self._affinity_slack:
            chosen = home
        self._homes[ticket.group] = chosen.name
        return chosen.name

    def forget(self, group: int) -> None:
        """The group is over."""
        self._homes.pop(group, None)

    def forget_engine(self, name: str) -> None:
        """The engine is gone, and its KV with it."""
        self._homes = {group: home for group, home in self._homes.items() if home != name}
