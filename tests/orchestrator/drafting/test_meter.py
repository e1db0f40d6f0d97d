"""Step records as metrics, by hand-computed examples."""

import pytest

from actors.speculation.step_record import StepRecord
from orchestrator.drafting.meter import SpeculationMeter, by_phase

PLAIN = StepRecord(running=4, k=0, drafted=0, accepted=0, emitted=4, seconds=0.3)
DRAFTING = StepRecord(running=2, k=2, drafted=4, accepted=3, emitted=5, seconds=0.1, by_position=(2, 1))


def test_acceptance_length_over_all_steps_and_while_drafting() -> None:
    meter = SpeculationMeter()
    meter.observe([PLAIN, DRAFTING])
    row = meter.row()
    assert row["speculation/acceptance_length_all"] == pytest.approx(9 / 6)
    assert row["speculation/acceptance_length"] == pytest.approx(1 + 3 / 2)
    assert row["speculation/drafting_share"] == pytest.approx(0.25)
    assert row["speculation/accepted_1"] == 1.0
    assert row["speculation/accepted_2"] == 0.5
    assert row["speculation/bucket_2"] == pytest.approx(2.5)


def test_a_row_covers_the_time_since_the_last_and_totals_the_run() -> None:
    meter = SpeculationMeter()
    assert meter.row() == {}
    assert meter.acceptance_length == 1.0
    meter.observe([DRAFTING])
    meter.row()
    meter.observe([PLAIN])
    assert meter.row()["speculation/acceptance_length_all"] == 1.0
    assert (meter.drafts, meter.accepted) == (4, 3)
    assert meter.acceptance_length == pytest.approx(9 / 6)


def test_phases_are_counted_by_bucket_and_draft_length() -> None:
    phases = by_phase([PLAIN, PLAIN, DRAFTING])
    assert set(phases) == {(3, 0), (2, 2)}
    assert (phases[3, 0].steps, phases[3, 0].drafts, phases[3, 0].emitted) == (2, 0, 8)
    assert (phases[2, 2].drafts, phases[2, 2].accepted) == (2, 3)
