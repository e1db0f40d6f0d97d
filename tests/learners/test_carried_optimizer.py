"""An optimizer's moments that another training of the same parameters begins with."""

from pathlib import Path

import pytest
import torch

from learners.errors import CheckpointError
from learners.learner import Learner
from tests.learners.ranks import run_ranks
from tests.learners.tiny import make_learner, random_batch, tiny_model, tokenizer


def make(model: str, rank: int = 0, ranks: int = 1, **trainer: object) -> Learner:
    return make_learner(model, {"old_logprobs": "behaviour"}, rank, ranks, **trainer)


def first_half(learner: Learner, folder: Path) -> None:
    for seed in range(2):
        learner.step(random_batch(seed=seed))
    learner.save(folder / "model", tokenizer())
    learner.save_optimizer(folder / "optimizer")


@pytest.mark.usefixtures("group")
def test_training_in_two_halves_with_one_optimizer_is_training_in_one(model: str, tmp_path: Path) -> None:
    whole = make(model)
    first_half(whole, tmp_path)
    carried = make(str(tmp_path / "model"), optimizer_from=str(tmp_path / "optimizer"))
    fresh = make(str(tmp_path / "model"))
    assert carried.steps == 0
    for learner in (whole, carried, fresh):
        learner.step(random_batch(seed=2))
    expected, found, other = (learner.snapshot(1)[1] for learner in (whole, carried, fresh))
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert not all(torch.equal(other[name], value) for name, value in expected.items())


@pytest.mark.usefixtures("group")
def test_the_learning_rate_is_warmed_up_anew(model: str, tmp_path: Path) -> None:
    first_half(make(model, warmup_steps=2), tmp_path)
    carried = make(str(tmp_path / "model"), optimizer_from=str(tmp_path / "optimizer"), warmup_steps=2)
    assert [carried.step(random_batch())["learning_rate"] for _ in range(3)] == [5e-4, 1e-3, 1e-3]


@pytest.mark.usefixtures("group")
def test_moments_of_other_parameters_are_refused(model: str, tmp_path: Path) -> None:
    first_half(make(model), tmp_path)
    tiny_model(num_hidden_layers=1).save_pretrained(tmp_path / "small")
    with pytest.raises(CheckpointError, match="another model's or another recipe's"):
        make(str(tmp_path / "small"), optimizer_from=str(tmp_path / "optimizer"))
    with pytest.raises(CheckpointError, match="lacks optimizer"):
        make(str(tmp_path / "model"), optimizer_from=str(tmp_path / "optimizer"), lora={"rank": 2})


def train_and_keep(rank: int, ranks: int, model: str, folder: Path) -> dict[str, torch.Tensor]:
    learner = make(model, rank, ranks)
    first_half(learner, folder)
    learner.step(random_batch(seed=2))
    return learner.snapshot(1)[1]


def carry(rank: int, ranks: int, folder: Path) -> dict[str, torch.Tensor]:
    learner = make(str(folder / "model"), rank, ranks, optimizer_from=str(folder / "optimizer"))
    learner.step(random_batch(seed=2))
    return learner.snapshot(1)[1]


def test_any_number_of_ranks_takes_over(model: str, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    expected = run_ranks(2, train_and_keep, model, kept, folder=tmp_path / "a")[0]
    found = run_ranks(1, carry, kept, folder=tmp_path / "b")[0]
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=3e-5, rtol=0)
