"""What becomes of a governor that fails."""

import math

import pytest

from actors.speculation.arms import Arm
from actors.speculation.guarded_governor import GuardedGovernor
from actors.speculation.settings import SpeculationSettings
from actors.speculation.step_governor import make_governor
from actors.speculation.step_record import StepRecord
from tests.actors.speculation.scripted_governor import FailsLater, Scripted

STEP = StepRecord(running=2, k=1, drafted=2, accepted=1, emitted=3, seconds=0.01, by_position=(1,))


class Told(Scripted):
    """Notes what it hears; `fails` names the call that raises."""

    def __init__(self, fails: str = "") -> None:
        self.heard: list[str] = []
        self.fails = fails
        super().__init__((2,), 0, 1.0)

    def _hear(self, what: str) -> None:
        self.heard.append(what)
        if what == self.fails:
            raise ArithmeticError(f"{what} is beyond me\nand more")

    def observe(self, record: StepRecord) -> None:
        self._hear("observe")

    def target_updated(self) -> None:
        self._hear("target_updated")

    def drafter_updated(self) -> None:
        super().drafter_updated()
        self._hear("drafter_updated")


def test_a_governor_that_is_well_is_asked_and_told_everything() -> None:
    inner = Told()
    governor = GuardedGovernor(inner, (0, 2))
    assert governor.choose(1, 0.0) == Arm(2)
    assert governor.attached
    governor.observe(STEP)
    governor.target_updated()
    governor.drafter_updated()
    assert inner.heard == ["drafter_updated", "observe", "target_updated", "drafter_updated"]
    assert governor.trouble is None


def test_after_its_first_error_it_is_left_alone_and_nothing_is_drafted() -> None:
    governor = GuardedGovernor(FailsLater((2,)), (0, 2))
    assert [governor.choose(1, 0.0).k for _ in range(5)] == [2, 2, 0, 0, 0]
    assert governor.trouble is not None
    assert "LookupError: 'no row for this batch'" in governor.trouble or "no row for this batch" in governor.trouble
    assert not governor.attached


@pytest.mark.parametrize("call", ["observe", "target_updated", "drafter_updated"])
def test_an_error_while_it_is_told_something_counts_as_well(call: str) -> None:
    inner = Told()
    governor = GuardedGovernor(inner, (0, 2))
    inner.fails = call
    for name, arguments in (("observe", (STEP,)), ("target_updated", ()), ("drafter_updated", ())):
        getattr(governor, name)(*arguments)
    assert inner.heard[-1] == call
    assert governor.choose(1, 0.0) == Arm(0)
    assert governor.trouble is not None
    assert f"{call} is beyond me" in governor.trouble
    assert "\n" not in governor.trouble


def test_a_length_that_was_not_declared_is_a_failure() -> None:
    governor = GuardedGovernor(Scripted((3,), 0, 0.0), (0, 2))
    assert governor.choose(1, 0.0) == Arm(0)
    assert governor.trouble is not None
    assert "it chose 3, and the lengths are 0, 2" in governor.trouble


def test_the_made_governor_survives_a_step_that_took_no_time_and_one_that_took_for_ever() -> None:
    settings = SpeculationSettings("suffix", lengths=(0, 2))
    governor = GuardedGovernor(make_governor(settings, detachable=False, on_cpu=True), settings.lengths)
    for seconds in (0.0, 1e-12, 1e9, math.inf):
        assert governor.choose(2, 0.0).k in (0, 2)
        governor.observe(StepRecord(running=2, k=0, drafted=0, accepted=0, emitted=2, seconds=seconds))
    assert governor.trouble is None
