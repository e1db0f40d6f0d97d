"""What a training step leaves for a drafter: hidden states of its own forward pass, and the same step as without."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from learners.batch import TrainBatch
from learners.drafters.settings import CaptureSettings
from learners.drafters.target import FINAL
from learners.drafters.windows import Window
from learners.learner import Learner
from tests.learners.ranks import run_ranks, single_rank
from tests.learners.tiny import make_learner, random_batch

EVERYTHING = CaptureSettings(tokens_per_pass=60, window_length=50, dtype="float32")


@pytest.fixture
def learner(model: str) -> Iterator[Learner]:
    with single_rank():
        yield make(model)


def make(model: str, rank: int = 0, ranks: int = 1, **trainer: object) -> Learner:
    return make_learner(model, None, rank, ranks, **trainer)


def streamed(learner: Learner, batch: TrainBatch) -> None:
    learner.begin_step(batch.version)
    learner.add(batch.sequences[:5])
    learner.add(batch.sequences[5:])
    learner.finish_step()


@pytest.mark.parametrize("stream", [False, True])
def test_windows_hold_what_a_plain_forward_of_the_old_weights_computes(
    learner: Learner, model: str, stream: bool
) -> None:
    learner.capture([1], EVERYTHING)
    batch = random_batch()
    streamed(learner, batch) if stream else learner.step(batch)
    windows = learner.take_windows()
    sequences = {s.sequence_id: s.prompt_ids + s.response_ids for s in batch.sequences}
    plain = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    assert len({window.sequence_id for window in windows}) > 6
    for window in windows:
        tokens = torch.tensor([sequences[window.sequence_id]])
        with torch.no_grad():
            truth = plain.model(tokens, output_hidden_states=True)
        assert window.version == batch.version
        assert torch.equal(window.token_ids, tokens[0, window.positions])
        torch.testing.assert_close(
            window.hidden[FINAL], truth.last_hidden_state[0, window.positions], rtol=1e-4, atol=1e-4
        )
        torch.testing.assert_close(window.hidden[1], truth.hidden_states[1][0, window.positions], rtol=1e-4, atol=1e-4)


def test_windows_are_given_once_and_belong_to_the_last_step(learner: Learner) -> None:
    learner.capture([], EVERYTHING)
    learner.step(random_batch(version=3))
    learner.step(random_batch(version=4, seed=1))
    assert {window.version for window in learner.take_windows()} == {4}
    assert learner.take_windows() == []


def test_a_watched_step_is_the_same_step(learner: Learner, model: str) -> None:
    unwatched = make(model)
    learner.capture([0, 2], EVERYTHING)
    watched_metrics, metrics = learner.step(random_batch()), unwatched.step(random_batch())
    assert {k: v for k, v in watched_metrics.items() if k != "seconds"} == {
        k: v for k, v in metrics.items() if k != "seconds"
    }
    _, watched_weights = learner.snapshot(1)
    _, weights = unwatched.snapshot(1)
    assert all(torch.equal(watched_weights[name], weights[name]) for name in weights)


def windows_of(rank: int, ranks: int, model: str) -> list[Window]:
    learner = make(model, rank, ranks, sequence_parallel=ranks)
    learner.capture([0, 1], EVERYTHING)
    learner.step(random_batch())
    return learner.take_windows()


def test_ranks_that_share_rows_leave_the_windows_of_one_rank(model: str, tmp_path: Path) -> None:
    (alone,) = run_ranks(1, windows_of, model, folder=tmp_path / "1")
    first, second = run_ranks(2, windows_of, model, folder=tmp_path / "2")
    assert len(alone) > 6
    assert second == []
    for mine, theirs in zip(first, alone, strict=True):
        assert mine.sequence_id == theirs.sequence_id
        assert torch.equal(mine.positions, theirs.positions)
        for layer, states in theirs.hidden.items():
            torch.testing.assert_close(mine.hidden[layer], states, rtol=1e-4, atol=1e-4)


def test_a_layer_that_is_not_there_is_refused(learner: Learner) -> None:
    with pytest.raises(ValueError, match="layer 7"):
        learner.capture([7], EVERYTHING)
