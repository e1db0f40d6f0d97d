"""When the fleet of engines grows, and when one of them is let go again. Pure: the clock is handed in.

It grows by one engine at a time where answers have waited for a place without a break, and it lets one go that has had
nothing to do for long: the tail of a batch empties engines for seconds, which must not cost a start of a minute.

Invariants: never beyond `most` engines, those on their way included; nobody is let go while anything waits, or when
there are `least`; after an engine that did not come, a pause. What falls below `least` is replaced by others, within
their budget (`orchestrator.recruiter`).
"""

from collections.abc import Mapping
from dataclasses import dataclass

GROW_AFTER_S = 5.0
"""Answers that wait for so long want one more engine."""
IDLE_S = 300.0
"""An engine beyond `least` that had nothing to do for so long is let go."""
PAUSE_S = 120.0
"""Until the next try, where an engine did not come: the cluster may have room later."""


@dataclass(frozen=True, slots=True)
class FleetView:
    """The fleet at one moment.

    Attributes:
        running: answers on each engine that serves, by its name, in the order in which they joined.
        coming: engines on their way, replacements included.
        waiting: answers that no engine has.
    """

    running: Mapping[str, int]
    coming: int
    waiting: int


@dataclass(frozen=True, slots=True)
class Change:
    """What to do now: at most one of the two."""

    grow: bool = False
    let_go: str | None = None


class GrowthRule:
    """Args:
    least, most: engines.
    """

    def __init__(self, least: int, most: int) -> None:
        if not 1 <= least <= most:
            raise ValueError(f"a fleet of {least} to {most} engines")
        self._least, self._most = least, most
        self._waits_since: float | None = None
        self._idle_since: dict[str, float] = {}
        self._paused_until = float("-inf")

    def did_not_come(self, now: float) -> None:
        """The engine that `look` wanted could not be started."""
        self._paused_until = now + PAUSE_S

    def look(self, view: FleetView, now: float) -> Change:
        """What this moment calls for; call it often."""
        self._note(view, now)
        engines = len(view.running)
        if self._waits_since is not None:
            wants = now - self._waits_since >= GROW_AFTER_S and now >= self._paused_until
            if wants and not view.coming and self._least <= engines < self._most:
                self._waits_since = now  # the next one, when this one has shown what it brings
                return Change(grow=True)
            return Change()
        if engines > self._least:
            idle = [name for name, since in self._idle_since.items() if now - since >= IDLE_S]
            youngest_first = [name for name in reversed(list(view.running)) if name in idle]
            return Change(let_go=youngest_first[0]) if youngest_first else Change()
        return Change()

    def _note(self, view: FleetView, now: float) -> None:
        if not view.waiting:
            self._waits_since = None
        elif self._waits_since is None:
            self._waits_since = now
        idle = [name for name, answers in view.running.items() if not answers]
        self._idle_since = {name: self._idle_since.get(name, now) for name in idle}
