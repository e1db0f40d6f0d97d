"""dispatched = trained + filtered + dropped + failed + pending, whatever happens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.policies.ledger import End, Ledger


@given(st.lists(st.one_of(st.none(), st.sampled_from(End)), max_size=60))
def test_the_account_always_balances(fates: list[End | None]) -> None:
    ledger = Ledger()
    for index, fate in enumerate(fates):
        ledger.dispatch(index)
        if fate is not None:
            ledger.end(index, fate)
        counts = ledger.counts()
        assert counts["dispatched"] == index + 1 == sum(counts.values()) - counts["dispatched"]
    assert ledger.pending == fates.count(None)
    assert all(ledger.count(end) == fates.count(end) for end in End)


def test_an_end_is_final() -> None:
    ledger = Ledger()
    ledger.dispatch(0)
    ledger.end(0, End.TRAINED)
    with pytest.raises(ValueError, match="not pending"):
        ledger.end(0, End.FAILED)


def test_what_was_never_dispatched_cannot_end() -> None:
    with pytest.raises(ValueError, match="not pending"):
        Ledger().end(3, End.TRAINED)


def test_a_pending_dispatch_cannot_be_dispatched_again() -> None:
    ledger = Ledger()
    ledger.dispatch(0)
    with pytest.raises(ValueError, match="already pending"):
        ledger.dispatch(0)
