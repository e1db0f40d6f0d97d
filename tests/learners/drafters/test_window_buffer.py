from collections import Counter

import torch

from learners.drafters.settings import WindowBufferSettings
from learners.drafters.window_buffer import WindowBuffer
from learners.drafters.windows import Window


def window(name: str, *, sequence_length: int = 10, tokens: int = 10, version: int = 0) -> Window:
    ids = torch.arange(tokens)
    return Window(name, ids, ids, {-1: torch.zeros(tokens, 32)}, version, sequence_length)


def names(windows: list[Window]) -> set[str]:
    return {entry.sequence_id for entry in windows}


def test_a_sample_mixes_this_step_with_long_sequences_of_the_step_before() -> None:
    buffer = WindowBuffer(WindowBufferSettings(holdout_share=0, previous_share=0.5, long_share=0.25))
    buffer.add(window(f"old {length}", sequence_length=length) for length in range(10, 50))
    buffer.end_step()
    buffer.add(window(f"new {index}") for index in range(40))
    chosen = buffer.sample(100)
    kinds = Counter(entry.sequence_id.split()[0] for entry in chosen)
    assert kinds == {"old": 5, "new": 5}
    assert {entry.sequence_length for entry in chosen if entry.sequence_id.startswith("old")} <= set(range(40, 50))
    # One step off: the step after, nothing of the first is left.
    buffer.end_step()
    assert all(name.startswith("new") for name in names(buffer.sample(1000)))
    buffer.end_step()
    assert buffer.sample(1000) == []


def test_where_one_side_runs_out_the_other_fills_up() -> None:
    buffer = WindowBuffer(WindowBufferSettings(holdout_share=0, previous_share=0.5, long_share=1.0))
    buffer.add(window(f"old {index}") for index in range(10))
    buffer.end_step()
    assert len(buffer.sample(80)) == 8
    buffer.add([window("new")])
    chosen = buffer.sample(80)
    assert len(chosen) == 8
    assert "new" in names(chosen)
    assert len({id(entry) for entry in chosen}) == 8


def test_held_out_sequences_are_never_trained_on_and_the_recent_ones_stay() -> None:
    settings = WindowBufferSettings(holdout_share=0.3, capacity_mib=0.1, long_share=1.0)
    buffer = WindowBuffer(settings)
    for version in range(5):
        buffer.add(window(f"{version} {index}", version=version) for index in range(60) for _ in range(2))
        held, trained = buffer.held_out(), buffer.sample(10_000)
        assert not names(held) & names(trained)
        assert version == max(entry.version for entry in held)
        assert sum(entry.nbytes for entry in held) <= 0.3 * 0.1 * 2**20
        buffer.end_step()
        assert not names(buffer.held_out()) & names(buffer.sample(10_000))
    assert min(entry.version for entry in buffer.held_out()) > 0


def test_what_does_not_fit_is_dropped_and_counted_and_what_stays_is_a_fair_sample() -> None:
    size = window("x").nbytes
    settings = WindowBufferSettings(holdout_share=0, capacity_mib=20 * size / 2**20, seed=1)
    kept: Counter[bool] = Counter()
    for seed in range(60):
        buffer = WindowBuffer(settings.model_copy(update={"seed": seed}))
        for index in range(80):
            buffer.add([window(str(index))])
            assert buffer.counts.nbytes <= 20 * size
        counts = buffer.counts
        assert (counts.current, counts.dropped, counts.dropped_bytes) == (20, 60, 60 * size)
        kept.update(int(entry.sequence_id) < 40 for entry in buffer.sample(10_000))
    # First come is not first served: 1200 windows kept, half of them from the first half, give or take 5 sigma.
    assert abs(kept[True] - 600) < 90


def test_a_window_beyond_the_capacity_is_dropped_and_not_an_error() -> None:
    buffer = WindowBuffer(WindowBufferSettings(holdout_share=0, capacity_mib=0.001))
    buffer.add([window("big", tokens=100)])
    assert buffer.counts.dropped == 1
    assert buffer.counts.nbytes == 0


def test_the_seed_fixes_the_samples() -> None:
    def drawn() -> list[str]:
        buffer = WindowBuffer(WindowBufferSettings(seed=4))
        buffer.add(window(str(index)) for index in range(50))
        buffer.end_step()
        buffer.add(window(f"new {index}") for index in range(50))
        return [entry.sequence_id for _ in range(3) for entry in buffer.sample(60)]

    assert drawn() == drawn()
