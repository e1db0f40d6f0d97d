"""What waits for the drafter: every position once, in order, whatever the requests do."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from actors.speculation.vllm_drafting import Backlog

Deed = tuple[str, int, int]


def row(request: str, position: int) -> float:
    return ord(request) * 1000.0 + position


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from(["add", "rewind", "forget", "jump"]), st.integers(1, 4)),
        max_size=60,
    )
)
def test_the_backlog_is_the_last_unbroken_run_of_positions(deeds: list[tuple[str, str, int]]) -> None:
    backlog = Backlog()
    model: dict[str, list[int]] = {}
    place = dict.fromkeys("abc", 0)
    added = 0
    for request, deed, count in deeds:
        if deed == "add":
            start = place[request]
            positions = list(range(start, start + count))
            values = torch.tensor([row(request, position) for position in positions])
            backlog.add([(request, start, count)], values, (values[:, None], -values[:, None]))
            model.setdefault(request, []).extend(positions)
            place[request] = start + count
            added += count
        elif deed == "rewind":
            place[request] = max(place[request] - count, 0)
            backlog.rewind(request, place[request])
            model[request] = [position for position in model.get(request, []) if position < place[request]]
        elif deed == "forget":
            backlog.forget(request)
            model[request] = []
        else:  # A step in which the drafter did read, of which the backlog does not hear.
            place[request] += count
            model[request] = []
            backlog.forget(request)
    assert backlog.rows == added
    for request in "abc":
        positions = model.get(request, [])
        assert (request in backlog) == bool(positions)
        if positions:
            start, rows = backlog.of(request)
            assert start == positions[0]
            inputs, hidden = backlog.gather(rows)
            assert inputs.tolist() == [row(request, position) for position in positions]
            assert hidden is not None
            assert hidden.tolist() == [[row(request, p), -row(request, p)] for p in positions]
    backlog.clear()
    assert backlog.rows == 0
    assert "a" not in backlog


def test_a_gap_drops_what_lies_before_it() -> None:
    backlog = Backlog()
    backlog.add([("a", 0, 2), ("b", 5, 1)], torch.arange(3), ())
    backlog.add([("a", 4, 1), ("b", 6, 2)], torch.arange(3, 6), ())
    assert backlog.of("a") == (4, [3])
    assert backlog.of("b") == (5, [2, 4, 5])
    inputs, hidden = backlog.gather(backlog.of("b")[1])
    assert inputs.tolist() == [2, 4, 5]
    assert hidden is None
    with pytest.raises(KeyError):
        backlog.of("c")
