"""Prompts that are given up."""

import json

from rewards.quarantine import Quarantine
from rewards.response import Failure, Score

FINE = Score(1.0, {})
HUNG = Score(0.0, {}, "no verdict", failure=Failure("timeout", "math"))
RAISED = Score(0.0, {}, "KeyError", failure=Failure("raised", "math"))


def test_a_prompt_goes_after_so_many_visits_that_hung_and_is_reported_once() -> None:
    quarantine = Quarantine(2)
    assert [quarantine.seen("a", [HUNG, HUNG]), quarantine.seen("a", [FINE, RAISED])] == [False, False]
    assert not quarantine.holds("a")
    assert quarantine.seen("a", [FINE, HUNG])
    assert quarantine.holds("a")
    assert not quarantine.seen("a", [HUNG])
    assert not quarantine.holds("b")


def test_what_goes_on_from_another_counts_on() -> None:
    before = Quarantine(2)
    before.seen("a", [HUNG])
    before.seen("b", [HUNG])
    before.seen("b", [HUNG])
    after = Quarantine(2)
    after.restore(json.loads(json.dumps(before.state())))
    assert after.holds("b")
    assert not after.seen("b", [HUNG]), "reported before the break"
    assert after.seen("a", [HUNG])


def test_zero_never_gives_up_and_a_prompt_without_a_name_is_never_held() -> None:
    patient = Quarantine(0)
    for _ in range(10):
        patient.seen("a", [HUNG])
    assert not patient.holds("a")
    nameless = Quarantine(1)
    assert not nameless.seen("", [HUNG])
    assert not nameless.holds("")
