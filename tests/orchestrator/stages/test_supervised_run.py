"""Supervised steps by the learner: which tokens count how much, and the same numbers as plain cross-entropy."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
import torch

from learners.learner import Learner
from learners.settings import TrainerSettings
from orchestrator.data.examples import Example, ExamplesSettings
from orchestrator.stages.recipes import SupervisedRecipe
from orchestrator.stages.supervised_run import example_order, supervised_batch
from tests.learners.ranks import CPU, single_rank
from tests.learners.tiny import tiny_model, write_model

EXAMPLES = (
    Example(1, (5, 6), (7, 8, 9), (1.0, 0.0, 0.5)),
    Example(2, (1,), (2, 3), (2.0, 1.0)),
)


def recipe(**examples: object) -> SupervisedRecipe:
    return SupervisedRecipe(name="s", model="m", examples=ExamplesSettings.model_validate({"path": "x", **examples}))


@pytest.fixture
def group() -> Iterator[None]:
    with single_rank():
        yield


def test_a_batch_carries_weights_as_advantages_and_masks_what_has_none() -> None:
    batch = supervised_batch(EXAMPLES, step=4)
    assert [sequence.loss_mask for sequence in batch.sequences] == [(True, False, True), (True, True)]
    assert [sequence.advantages for sequence in batch.sequences] == [(1.0, 0.0, 0.5), (2.0, 1.0)]
    assert {version for sequence in batch.sequences for version in sequence.versions} == {4}


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("aggregation", ["token", "sequence"])
def test_the_loss_is_the_weighted_cross_entropy_of_plain_transformers(aggregation: str, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    trainer = TrainerSettings(dtype="float32", learning_rate=1e-3)
    algorithm = recipe(aggregation=aggregation).algorithm
    learner = Learner(model, algorithm, trainer, temperature=1.0, rank=0, world_size=1, device=CPU)
    metrics = learner.step(supervised_batch(EXAMPLES, step=0))
    losses = [weighted_losses(example) for example in EXAMPLES]
    # Tokens of weight 0 are no tokens: 4 are learned. Weights scale the gradient and not the divisor.
    expected = torch.cat(losses).sum() / 4 if aggregation == "token" else sum(x.sum() / 2 for x in losses) / 2
    assert metrics["loss"] == pytest.approx(float(expected), rel=1e-5)
    assert metrics["trained_tokens"] == 4


def weighted_losses(example: Example) -> torch.Tensor:
    ids = torch.tensor([[*example.prompt_ids, *example.response_ids]])
    with torch.no_grad():
        logprobs = tiny_model()(input_ids=ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
    return -logprobs[len(example.prompt_ids) - 1 :] * torch.tensor(example.weights)


@pytest.mark.usefixtures("group")
def test_what_is_repeated_is_learned(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    trainer = TrainerSettings(dtype="float32", learning_rate=1e-2)
    learner = Learner(model, recipe().algorithm, trainer, temperature=1.0, rank=0, world_size=1, device=CPU)
    losses = [learner.step(supervised_batch(EXAMPLES, step))["loss"] for step in range(20)]
    assert losses[-1] < losses[0] / 3


def test_every_epoch_shows_each_example_once_in_an_order_of_its_own() -> None:
    drawn = list(islice(example_order(5, 0, shuffle=True), 15))
    epochs = [drawn[0:5], drawn[5:10], drawn[10:15]]
    assert all(sorted(epoch) == [0, 1, 2, 3, 4] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert drawn == list(islice(example_order(5, 0, shuffle=True), 15))
    assert drawn != list(islice(example_order(5, 1, shuffle=True), 15))
    assert list(islice(example_order(3, 0, shuffle=False), 6)) == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize("trainer", [{"stream": True}, {"minibatches": 2}])
def test_settings_without_a_meaning_are_refused(trainer: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="means nothing where kind is sft"):
        SupervisedRecipe.model_validate({"name": "s", "model": "m", "examples": {"path": "x"}, "trainer": trainer})
