"""The torch engine's drafter and governor from an engine's settings."""

import pytest

from actors.speculation.for_torch import torch_speculation
from actors.speculation.settings import SpeculationSettings
from actors.speculation.step_record import StepRecord


def test_a_fixed_governor_chooses_by_the_number_of_running_answers() -> None:
    speculation = torch_speculation(
        SpeculationSettings("suffix", lengths=(0, 2, 4), governor="fixed", governor_options={"1": 4, "3": 2, "9": 0})
    )
    assert [speculation.lengths.choose(running) for running in (1, 2, 3, 8, 9, 100)] == [4, 4, 2, 2, 0, 0]
    assert speculation.drafter.name == "suffix"


def test_it_learns_from_records_and_hears_of_updates() -> None:
    speculation = torch_speculation(SpeculationSettings("suffix", lengths=(0, 2)))
    chosen = []
    for _ in range(400):
        length = speculation.lengths.choose(1)
        chosen.append(length)
        emitted = 1 + length  # every draft is kept, and drafting costs nothing
        speculation.lengths.record(StepRecord(1, length, length, length, emitted, 0.01, by_position=(1,) * length))
    assert chosen[0] == 0
    assert chosen[-1] == 2
    speculation.updated("target")
    speculation.updated("drafter")
    assert speculation.lengths.choose(1) in (0, 2)


def test_an_unknown_governor_is_refused() -> None:
    with pytest.raises(ValueError, match=r"speculation\.governor=bandit"):
        torch_speculation(SpeculationSettings("suffix", lengths=(0, 2), governor="bandit"))
