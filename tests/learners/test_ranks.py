"""Several ranks, in real processes over gloo: the same result as one, and failures that end."""

from pathlib import Path

import pytest
import torch

from learners.errors import CheckpointError, PolicyError
from learners.learner import Learner
from tests.learners.ranks import run_ranks
from tests.learners.tiny import make_learner, random_batch, tokenizer, write_model

PROBE = [1, 5, 9, 2, 30]
Outcome = dict[str, object]


def make(rank: int, world_size: int, model: str, **trainer: object) -> Learner:
    return make_learner(model, None, rank, world_size, **trainer)


def train(rank: int, world_size: int, model: str) -> Outcome:
    learner = make(rank, world_size, model, minibatches=2)
    # The last batch has fewer sequences than ranks in one of its minibatches.
    metrics = [learner.step(random_batch(seed=seed, sequences=count)) for seed, count in enumerate((12, 12, 3))]
    manifest, tensors = learner.snapshot(3)
    truth = learner.truth(manifest, tensors, PROBE)
    learner.perturb(seed=1, scale=0.2)
    perturbed = learner.snapshot(4)[1]
    learner.restore()
    return {
        "metrics": [{k: v for k, v in entry.items() if k != "seconds"} for entry in metrics],
        "manifest": manifest,
        "tensors": tensors,
        "probe": truth.probe_logprobs,
        "checksums": dict(truth.checksums),
        "perturbed": perturbed,
        "restored": learner.snapshot(5)[1],
    }


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[Outcome]]:
    folder = tmp_path_factory.mktemp("ranks")
    model = write_model(folder / "model")
    return {size: run_ranks(size, train, model, folder=folder / str(size)) for size in (1, 2, 3)}


@pytest.mark.parametrize("size", [2, 3])
def test_any_number_of_ranks_trains_the_same_weights(outcomes: dict[int, list[Outcome]], size: int) -> None:
    alone, together = outcomes[1][0], outcomes[size][0]
    assert alone["manifest"] == together["manifest"]
    for name, value in alone["tensors"].items():  # type: ignore[attr-defined]
        # Five updates of 1e-3 each: a rank's gradient that went missing would show at that scale.
        torch.testing.assert_close(together["tensors"][name], value, atol=2e-5, rtol=0)  # type: ignore[index]
    for mine, theirs in zip(alone["metrics"], together["metrics"], strict=True):  # type: ignore[call-overload]
        assert mine == pytest.approx(theirs, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_agree_and_rank_0_alone_holds_the_weights(outcomes: dict[int, list[Outcome]], size: int) -> None:
    first, *others = outcomes[size]
    for other in others:
        for key in ("metrics", "manifest", "probe"):
            assert other[key] == first[key], key
        assert other["tensors"] == other["checksums"] == {}
    assert len(first["checksums"]) == len(first["manifest"].tensors)  # type: ignore[arg-type,attr-defined]


@pytest.mark.parametrize("size", [2, 3])
def test_the_perturbation_is_the_same_for_any_number_of_ranks(outcomes: dict[int, list[Outcome]], size: int) -> None:
    alone, together = outcomes[1][0], outcomes[size][0]
    for name, value in together["perturbed"].items():  # type: ignore[attr-defined]
        torch.testing.assert_close(value, alone["perturbed"][name], atol=3e-5, rtol=0)  # type: ignore[index]
        assert torch.equal(together["restored"][name], together["tensors"][name])  # type: ignore[index]


def save(rank: int, world_size: int, model: str, folder: Path) -> Outcome:
    learner = make(rank, world_size, model)
    learner.step(random_batch(seed=0))
    learner.save_checkpoint(folder / "step_1")
    learner.save(folder / "export", tokenizer())
    learner.step(random_batch(seed=1))
    return {"tensors": learner.snapshot(0)[1]}


def resume(rank: int, world_size: int, model: str, folder: Path) -> Outcome:
    learner = make(rank, world_size, model)
    learner.load_checkpoint(folder / "step_1")
    learner.step(random_batch(seed=1))
    return {"tensors": learner.snapshot(0)[1], "steps": learner.steps}


def test_a_checkpoint_of_two_ranks_resumes_on_two_and_on_one(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    straight = run_ranks(2, save, model, tmp_path / "run", folder=tmp_path / "a")[0]
    for size in (2, 1):
        resumed = run_ranks(size, resume, model, tmp_path / "run", folder=tmp_path / f"b{size}")[0]
        assert resumed["steps"] == 2
        for name, value in straight["tensors"].items():
            # The same ranks repeat to the bit.
            atol = 0 if size == 2 else 2e-5
            torch.testing.assert_close(resumed["tensors"][name], value, atol=atol, rtol=0)
    assert sorted(entry.name for entry in (tmp_path / "run").iterdir()) == ["export", "step_1"]


def fail_to_save(rank: int, world_size: int, model: str, folder: Path) -> Outcome:
    learner = make(rank, world_size, model)
    messages: Outcome = {}
    try:
        learner.save_checkpoint(folder / "taken")
    except CheckpointError as error:
        messages["checkpoint"] = str(error)
    try:
        learner.save(folder / "taken", tokenizer())
    except PolicyError as error:
        messages["export"] = str(error)
    try:
        learner.load_checkpoint(folder / "missing")
    except CheckpointError as error:
        messages["load"] = str(error)
    # The group is still usable.
    messages["loss"] = learner.step(random_batch())["loss"]
    return messages


def test_a_failed_save_reaches_every_rank_as_one_line_and_breaks_nothing(tmp_path: Path) -> None:
    (tmp_path / "run" / "taken").mkdir(parents=True)
    (tmp_path / "run" / "taken" / "file").write_text("mine")
    model = write_model(tmp_path / "model")
    first, second = run_ranks(2, fail_to_save, model, tmp_path / "run", folder=tmp_path / "out")
    assert first == second
    assert "exists" in first["checkpoint"]
    assert "exists" in first["export"]
    assert "holds no checkpoint" in first["load"]
    assert all("\n" not in str(message) for message in first.values())
    assert [entry.name for entry in (tmp_path / "run").iterdir()] == ["taken"]
    assert (tmp_path / "run" / "taken" / "file").read_text() == "mine"
