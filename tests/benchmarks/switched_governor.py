"""Several governors in one engine; a byte in a file says which of them governs.

Two engines of the same kind differ in speed by some percent for as long as they live, so ways to choose a draft length
are compared within one engine.
"""

from collections.abc import Mapping
from mmap import ACCESS_READ, mmap
from pathlib import Path

from actors.speculation.arms import Arm
from actors.speculation.settings import SpeculationSettings
from actors.speculation.step_governor import StepGovernor, make_governor
from actors.speculation.step_record import StepRecord

GOVERNED = "governor"


def ways(lengths: tuple[int, ...]) -> Mapping[str, SpeculationSettings]:
    """Every fixed draft length, and the governor that a run has by default."""
    fixed = {
        f"K={k}": SpeculationSettings("suffix", None, lengths, governor="fixed", governor_options={"1": k})
        for k in lengths[1:]
    }
    return {**fixed, GOVERNED: SpeculationSettings("suffix", None, lengths)}


class Switch:
    """Args: path: where the byte stands; the file is made."""

    def __init__(self, path: Path, lengths: tuple[int, ...]) -> None:
        self.path, self.names = path, tuple(ways(lengths))
        self.turn_to(GOVERNED)

    def turn_to(self, name: str) -> None:
        with self.path.open("r+b" if self.path.exists() else "wb") as file:
            file.write(bytes([self.names.index(name)]))


class SwitchedGovernor:
    """A `StepGovernor`; each of those that it holds learns from the steps alone that it chose for."""

    def __init__(self, lengths: tuple[int, ...], switch: str) -> None:
        self._governors: list[StepGovernor] = [
            make_governor(settings, detachable=True, on_cpu=True) for settings in ways(lengths).values()
        ]
        with Path(switch).open("rb") as file:
            self._switch = mmap(file.fileno(), 1, access=ACCESS_READ)
        self._now = self._governors[0]

    @property
    def attached(self) -> bool:
        return self._now.attached

    def choose(self, running: int, now: float) -> Arm:
        self._now = self._governors[self._switch[0]]
        return self._now.choose(running, now)

    def observe(self, record: StepRecord) -> None:
        self._now.observe(record)

    def target_updated(self) -> None:
        for governor in self._governors:
            governor.target_updated()

    def drafter_updated(self) -> None:
        for governor in self._governors:
            governor.drafter_updated()


def switched(lengths: tuple[int, ...], switch: str) -> SwitchedGovernor:
    """Made inside the engine's process, by name."""
    return SwitchedGovernor(lengths, switch)
