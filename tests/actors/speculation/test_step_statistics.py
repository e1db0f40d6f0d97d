"""Acceptance by batch, draft position, answer position and staleness, from step records."""

import pytest

from actors.speculation.arms import Arm, everywhere
from actors.speculation.step_record import AnswerShare, StepRecord
from actors.speculation.step_statistics import Tally, summarise

TABLE = everywhere([Arm(1), Arm(3)])
RECORDS = [
    StepRecord(4, 0, 0, 0, 4, 0.5, attached=False),
    StepRecord(4, 3, 12, 6, 10, 0.3, by_position=(4, 2), by_answer=(AnswerShare(10, 3, 5), AnswerShare(300, 1, 1))),
    StepRecord(3, 3, 9, 3, 6, 0.1, by_position=(1, 1, 1), by_answer=(AnswerShare(511, 3, 3),), drafter_staleness=2),
    StepRecord(16, 1, 16, 8, 24, 0.1, catch_up_s=0.05, drafter_staleness=2),
    StepRecord(16, 1, 0, 0, 16, 0.0, drafter_staleness=2),
]


def test_each_view_counts_the_same_drafts() -> None:
    found = summarise(RECORDS, TABLE)
    assert found.by_bucket == {"3-4": Tally(7, 9), "9-16": Tally(16, 8)}
    assert found.by_bucket["9-16"].acceptance_length == 1.5
    assert found.by_staleness == {0: Tally(4, 6), 2: Tally(19, 11)}
    assert found.by_answer_position == {0: Tally(3, 5), 256: Tally(4, 4)}


def test_a_position_counts_only_the_drafts_that_reached_it() -> None:
    assert summarise(RECORDS, TABLE).by_draft_position == pytest.approx((5 / 7, 3 / 5, 1 / 3))


def test_time_is_shared_out() -> None:
    found = summarise(RECORDS, TABLE)
    assert found.seconds_by_k == pytest.approx({0: 0.5, 1: 0.1, 3: 0.4})
    assert (found.detached, found.catch_up) == pytest.approx((0.5, 0.05))


def test_no_records_say_nothing() -> None:
    found = summarise([], TABLE)
    assert (found.by_bucket, found.by_draft_position, found.detached) == ({}, (), 0.0)
