"""Bad numbers: what is not finite changes no bit on any rank, is counted, and ends training after a limit."""

import math
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from learners.batch import TrainBatch
from learners.errors import DivergedError, EmptyBatchError, TrainingStopError
from learners.learner import Learner
from learners.sharding import local_shard
from learners.skipped_updates import SkippedUpdates
from learners.terms.term import Term, TermInput
from tests.learners.ranks import run_ranks
from tests.learners.tiny import make_learner, random_batch

COUNTERS = {"optimizer.steps", "critic.optimizer.steps"}
"""They count training steps, also those that were left out."""
State = dict[str, Tensor]


def _infinite(given: TermInput) -> Tensor:
    return torch.full_like(given.logprobs, torch.inf)


infinite = Term(_infinite, compares=False)
"""A loss that is not finite and has no gradient at all."""


def good(seed: int) -> TrainBatch:
    batch = random_batch(seed=seed)
    items = (replace(item, reward=float(number % 2)) for number, item in enumerate(batch.sequences))
    return TrainBatch(3, tuple(items))


def poisoned(seed: int = 1) -> TrainBatch:
    """One answer of many has an advantage and a reward that are no numbers."""
    batch = good(seed)
    first, *others = batch.sequences
    bad = replace(first, advantages=(math.nan,) * len(first.versions), reward=math.nan)
    return TrainBatch(3, (bad, *others))


def bits(learner: Learner) -> State:
    """Copies of this rank's shards of weights and optimizer state."""
    state = learner._record.state()
    return {name: local_shard(value).clone() for name, value in state.items() if name not in COUNTERS}


def train_through(rank: int, ranks: int, model: str, algorithm: dict[str, object]) -> dict[str, object]:
    """A good step, a poisoned one, a good one: what each left and said."""
    learner = make_learner(model, algorithm, rank, ranks)
    learner.step(good(seed=0))
    before = bits(learner)
    metrics = learner.step(poisoned())
    after = bits(learner)
    last = learner.step(good(seed=2))
    return {"before": before, "after": after, "end": bits(learner), "metrics": metrics, "last": last}


@pytest.mark.parametrize("advantage", ["grpo", "gae"])
def test_a_bad_step_on_two_ranks_changes_no_bit_on_either(model: str, tmp_path: Path, advantage: str) -> None:
    """The bad answer lies on one rank alone; both leave the step out and go on together."""
    outcomes = run_ranks(2, train_through, model, {"advantage": advantage}, folder=tmp_path)
    for outcome in outcomes:
        assert outcome["metrics"]["skipped_updates"] == 1
        assert outcome["last"]["skipped_updates"] == 0
        if advantage == "gae":
            assert outcome["metrics"]["critic_skipped_updates"] == 1
        for name, value in outcome["before"].items():
            assert torch.equal(outcome["after"][name], value), name
            assert torch.isfinite(outcome["end"][name]).all(), name
    assert not torch.equal(
        outcomes[0]["end"]["model.model.norm.weight"], outcomes[0]["after"]["model.model.norm.weight"]
    )


@pytest.mark.usefixtures("group")
def test_a_loss_that_is_not_finite_is_left_out_even_if_its_gradient_is(model: str) -> None:
    name = "tests.learners.test_skipped_updates:infinite"
    learner = make_learner(model, {"terms": [{"name": name, "weight": 1.0}]})
    before = bits(learner)
    metrics = learner.step(random_batch())
    assert metrics["loss"] == math.inf
    assert metrics["skipped_updates"] == 1
    assert all(torch.equal(value, before[name]) for name, value in bits(learner).items())


@pytest.mark.usefixtures("group")
def test_a_good_minibatch_of_a_bad_batch_is_trained(model: str) -> None:
    learner = make_learner(model, {}, minibatches=3)
    before = bits(learner)
    assert learner.step(poisoned())["skipped_updates"] == 1
    assert not torch.equal(bits(learner)["model.model.norm.weight"], before["model.model.norm.weight"])


def reach_the_limit(rank: int, ranks: int, model: str) -> dict[str, object]:
    learner = make_learner(model, {}, rank, ranks, max_skipped_updates=2)
    learner.step(poisoned())
    learner.step(random_batch())  # A good one in between starts the count anew.
    before = bits(learner)
    learner.step(poisoned())
    try:
        learner.step(poisoned(seed=2))
    except DivergedError as error:
        after = bits(learner)
        return {"message": str(error), "untouched": all(torch.equal(after[name], v) for name, v in before.items())}
    return {}


def test_too_many_in_a_row_end_training_with_one_line_on_every_rank(model: str, tmp_path: Path) -> None:
    first, second = run_ranks(2, reach_the_limit, model, folder=tmp_path)
    assert first == second
    assert first["untouched"]
    assert "the last 2 updates of the policy were left out" in first["message"]
    assert "trainer.max_skipped_updates=2" in first["message"]
    assert "\n" not in first["message"]


@pytest.mark.usefixtures("group")
def test_a_streamed_step_counts_too(model: str) -> None:
    learner = make_learner(model, {}, max_skipped_updates=2)
    for attempt in range(2):
        learner.begin_step(3)
        for item in poisoned().sequences:
            learner.add((item,))
        if attempt == 0:
            assert learner.finish_step()["skipped_updates"] == 1
    with pytest.raises(DivergedError):
        learner.finish_step()


@pytest.mark.parametrize("norms", [[1.0, math.nan, 0.0, math.inf], [math.nan, 2.0] * 9])
def test_the_limit_is_for_a_row(norms: list[float]) -> None:
    skipped = SkippedUpdates("the policy", 2)
    for norm in norms:
        skipped.note(norm)
    with pytest.raises(DivergedError):
        [skipped.note(math.nan) for _ in range(2)]


@pytest.mark.usefixtures("group")
def test_an_empty_batch_has_a_name_and_touches_nothing(model: str) -> None:
    learner = make_learner(model, {"advantage": "gae"})
    before = bits(learner)
    masked = tuple(replace(item, loss_mask=(False,) * len(item.versions)) for item in random_batch().sequences)
    with pytest.raises(EmptyBatchError, match="nothing to train on"):
        learner.step(TrainBatch(3, masked))
    learner.begin_step(3)
    learner.add(masked)
    with pytest.raises(EmptyBatchError):
        learner.finish_step()
    learner.abandon_step()
    assert all(torch.equal(value, before[name]) for name, value in bits(learner).items())
    assert learner.steps == 0


@pytest.mark.parametrize("error", [DivergedError("why"), EmptyBatchError()])
def test_what_ends_training_travels_between_processes_and_says_what_to_do(error: TrainingStopError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert (str(copy), copy.fix) == (str(error), error.fix)
    assert "\n" not in str(copy) + copy.fix
