"""The windows that a drafter is trained on: this step's, mixed with those of long sequences of the step before.

Early in a step only short answers have ended, and a drafter trained on them alone is skewed towards short answers;
hence TLT's one-step-off sampling (TLT §2.1). Windows of held-out sequences are never trained on: they are what shadow
evaluation reads, the most recent ones.

Invariants:
- `add` never blocks and never raises for want of room: what does not fit is dropped and counted, and what stays of a
  step's windows is a uniform sample of them, not the first that came;
- a sequence is held out whole or not at all, whichever step or pass its windows come from;
- the same windows in the same order, with the same seed, give the same samples.
"""

import hashlib
import math
import random
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from learners.drafters.settings import WindowBufferSettings
from learners.drafters.windows import Window


@dataclass(frozen=True, slots=True)
class BufferCounts:
    """Attributes:
    current, previous, held_out: windows held now.
    nbytes: of all of them.
    dropped, dropped_bytes: left out of training for want of room, since the beginning.
    """

    current: int
    previous: int
    held_out: int
    nbytes: int
    dropped: int
    dropped_bytes: int


@dataclass(frozen=True, slots=True, eq=False)
class _Ranked:
    """A window and its lot: where room is short, the lowest lots go."""

    lot: float
    window: Window


class WindowBuffer:
    """Not thread-safe: whoever captures and whoever trains take turns."""

    def __init__(self, settings: WindowBufferSettings) -> None:
        self._settings = settings
        capacity = int(settings.capacity_mib * 2**20)
        self._held_out_capacity = int(capacity * settings.holdout_share)
        self._capacity = capacity - self._held_out_capacity
        self._rng = random.Random(settings.seed)
        self._current: list[_Ranked] = []
        self._previous: list[_Ranked] = []
        self._held_out: deque[Window] = deque()
        self._dropped = 0
        self._dropped_bytes = 0

    def add(self, windows: Iterable[Window]) -> None:
        """Windows of the step in progress."""
        for window in windows:
            if self._is_held_out(window.sequence_id):
                self._held_out.append(window)
            else:
                self._current.append(_Ranked(self._rng.random(), window))
        self._make_room()

    def end_step(self) -> None:
        """The step in progress is over: its longest sequences' windows become the previous step's, the rest go."""
        lengths = {entry.window.sequence_id: entry.window.sequence_length for entry in self._current}
        count = math.ceil(len(lengths) * self._settings.long_share)
        longest = set(sorted(lengths, key=lambda name: (-lengths[name], name))[:count])
        self._previous = [entry for entry in self._current if entry.window.sequence_id in longest]
        self._current = []

    def sample(self, token_budget: int) -> list[Window]:
        """Windows to train on, drawn without replacement; fewer tokens than the budget where there are not more.

        `previous_share` of the tokens come from the previous step's long sequences; where one side runs out, the
        other fills up.
        """
        previous = self._shuffled(self._previous)
        current = self._shuffled(self._current)
        chosen, held = _take(previous, int(token_budget * self._settings.previous_share))
        more, more_held = _take(current, token_budget - held)
        rest, _ = _take(previous[len(chosen) :], token_budget - held - more_held)
        return [*more, *chosen, *rest]

    def held_out(self) -> list[Window]:
        """For shadow evaluation, oldest first. Never trained on."""
        return list(self._held_out)

    @property
    def counts(self) -> BufferCounts:
        return BufferCounts(
            current=len(self._current),
            previous=len(self._previous),
            held_out=len(self._held_out),
            nbytes=self._trained_bytes() + sum(window.nbytes for window in self._held_out),
            dropped=self._dropped,
            dropped_bytes=self._dropped_bytes,
        )

    def _is_held_out(self, sequence_id: str) -> bool:
        """By a hash of the id, so that every window of a sequence falls on the same side."""
        digest = hashlib.blake2b(f"{self._settings.seed}:{sequence_id}".encode(), digest_size=8).digest()
        return int.from_bytes(digest) < self._settings.holdout_share * 2**64

    def _make_room(self) -> None:
        over = self._trained_bytes() - self._capacity
        doomed: set[_Ranked] = set()
        for entry in sorted([*self._previous, *self._current], key=lambda entry: entry.lot) if over > 0 else ():
            if over <= 0:
                break
            doomed.add(entry)
            over -= entry.window.nbytes
        if doomed:
            self._dropped += len(doomed)
            self._dropped_bytes += sum(entry.window.nbytes for entry in doomed)
            self._previous = [entry for entry in self._previous if entry not in doomed]
            self._current = [entry for entry in self._current if entry not in doomed]
        held = sum(window.nbytes for window in self._held_out)
        while held > self._held_out_capacity:
            held -= self._held_out.popleft().nbytes

    def _trained_bytes(self) -> int:
        return sum(entry.window.nbytes for entry in (*self._previous, *self._current))

    def _shuffled(self, entries: list[_Ranked]) -> list[Window]:
        windows = [entry.window for entry in entries]
        self._rng.shuffle(windows)
        return windows


def _take(windows: list[Window], token_budget: int) -> tuple[list[Window], int]:
    """The first windows that fit, and their tokens."""
    chosen: list[Window] = []
    held = 0
    for window in windows:
        if held + len(window) > token_budget:
            break
        chosen.append(window)
        held += len(window)
    return chosen, held
