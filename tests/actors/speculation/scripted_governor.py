"""Draft lengths that a test knows beforehand. Made inside the engine's process, by name."""

import random

from actors.speculation.arms import Arm
from actors.speculation.step_record import StepRecord


class Scripted:
    """Draws each step's length, and whether the drafter reads along, by a seed; the script begins anew whenever the
    drafter is updated, so that two runs can be compared."""

    def __init__(self, lengths: tuple[int, ...], seed: int, attached: float) -> None:
        self._lengths = lengths
        self._seed = seed
        self._share_attached = attached
        self.attached = False
        self.drafter_updated()

    def choose(self, running: int, now: float) -> Arm:
        self.attached = self._draw.random() < self._share_attached
        return Arm(self._draw.choice(self._lengths))

    def observe(self, record: StepRecord) -> None:
        assert record.running > 0

    def target_updated(self) -> None:
        pass

    def drafter_updated(self) -> None:
        self._draw = random.Random(self._seed)


class FailsLater(Scripted):
    """A user's governor with a fault: its third choice ends in an error."""

    def __init__(self, lengths: tuple[int, ...]) -> None:
        super().__init__(lengths, 0, 0.0)
        self._left = 3

    def choose(self, running: int, now: float) -> Arm:
        self._left -= 1
        if not self._left:
            raise LookupError("no row for this batch")
        return super().choose(running, now)


def scripted(lengths: tuple[int, ...], seed: int = 0, attached: float = 0.0) -> Scripted:
    return Scripted(lengths, seed, attached)
