import random

import pytest
import torch

from learners.drafters.drafter_training import DrafterTrainer
from learners.drafters.errors import DrafterDivergedError, DrafterError
from learners.drafters.settings import DrafterTrainingSettings
from learners.drafters.target import FINAL
from learners.drafters.windows import Window
from tests.learners.drafters.builders import CPU, KINDS, new_drafter, target_model, tied_target, windows_of_target

PLAIN = DrafterTrainingSettings(learning_rate=5e-3, dtype="float32")


def _trainer(kind: str = "eagle", settings: DrafterTrainingSettings = PLAIN) -> DrafterTrainer:
    return DrafterTrainer(new_drafter(kind, tied_target()), settings, CPU)


def _train(trainer: DrafterTrainer, steps: int, seed: int = 0) -> dict[str, float]:
    rng = random.Random(seed)
    metrics: dict[str, float] = {}
    for _ in range(steps):
        metrics = trainer.micro_step(rng.sample(windows_of_target(48, 49), 12))
    return metrics


def _broken(window: Window) -> Window:
    hidden = {layer: state.clone() for layer, state in window.hidden.items()}
    hidden[FINAL][3] = torch.nan
    return Window("x", window.token_ids, window.positions, hidden, 0, window.sequence_length)


def _weights(trainer: DrafterTrainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.state().items()}


@pytest.mark.parametrize("kind", KINDS)
def test_training_raises_the_accepted_length_on_unseen_answers(kind: str) -> None:
    trainer = _trainer(kind)
    unseen = windows_of_target(12, 49, 1)
    before = trainer.evaluate(unseen, 3)
    metrics = _train(trainer, 60)
    after = trainer.evaluate(unseen, 3)
    assert after.sampled.accepted > 2 * before.sampled.accepted
    assert after.greedy.accepted > 1.5 * before.greedy.accepted
    # What training saw of the first draft position agrees with the judge on the same answers.
    trained_on = trainer.evaluate(windows_of_target(48, 49), 3)
    assert metrics["acceptance_1"] == pytest.approx(trained_on.sampled.survival[0], abs=0.05)
    assert trainer.updates == 60
    assert trainer.skipped == 0


def test_expected_acceptance_alone_can_be_trained() -> None:
    trainer = _trainer(settings=PLAIN.model_copy(update={"losses": {"expected_acceptance": 1.0}}))
    before = trainer.evaluate(windows_of_target(12, 49, 1), 3)
    metrics = _train(trainer, 60)
    after = trainer.evaluate(windows_of_target(12, 49, 1), 3)
    assert after.sampled.accepted > 2 * before.sampled.accepted
    assert metrics["expected_acceptance"] == pytest.approx(1 - metrics["acceptance"])


def test_a_step_over_windows_together_is_the_mean_over_their_rows() -> None:
    """Metrics of two windows at once are those of each alone, weighted by rows: packing changes nothing."""
    first, second = windows_of_target()[:2]
    together = _trainer().micro_step([first, second])
    alone = [_trainer().micro_step([window]) for window in (first, second)]
    rows = [len(first) - 1, len(second) - 1]
    for name in ("loss", "soft_cross_entropy", "hidden_smooth_l1", "acceptance_1"):
        mean = sum(part[name] * count for part, count in zip(alone, rows, strict=True)) / sum(rows)
        assert together[name] == pytest.approx(mean, rel=1e-4), name


def test_an_update_that_is_not_finite_changes_nothing_and_several_end_training() -> None:
    trainer = _trainer(settings=PLAIN.model_copy(update={"max_bad_updates": 3}))
    _train(trainer, 2)
    good = windows_of_target()[0]
    before = _weights(trainer)
    assert trainer.micro_step([_broken(good)])["skipped"] == 1
    after = _weights(trainer)
    assert [name for name in before if name != "counters" and not torch.equal(before[name], after[name])] == []
    trainer.micro_step([_broken(good)])
    assert trainer.micro_step([good])["skipped"] == 0  # A good one in between starts the count anew.
    after = _weights(trainer)
    for _ in range(2):
        trainer.micro_step([_broken(good)])
    with pytest.raises(DrafterDivergedError, match="3 drafter updates in a row"):
        trainer.micro_step([_broken(good)])
    assert trainer.skipped == 5
    for name, value in trainer.drafter.named_parameters():
        assert torch.equal(value, after[f"drafter.{name}"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_restored_trainer_goes_on_bit_by_bit(kind: str) -> None:
    trainer, other = _trainer(kind), _trainer(kind)
    _train(trainer, 3)
    saved = _weights(trainer)
    _train(trainer, 3, seed=1)
    _train(other, 1, seed=2)
    other.restore(saved)
    assert other.updates == 3
    _train(other, 3, seed=1)
    assert all(torch.equal(value, other.state()[name]) for name, value in trainer.state().items())


def test_a_state_of_another_kind_is_refused_and_nothing_changes() -> None:
    trainer = _trainer("eagle")
    before = _weights(trainer)
    with pytest.raises(DrafterError, match="another drafter's"):
        trainer.restore(_trainer("eagle3").state())
    assert all(torch.equal(value, trainer.state()[name]) for name, value in before.items())


def test_a_state_holds_no_tensor_of_the_target() -> None:
    shape = tied_target().get_input_embeddings().weight.shape
    assert [name for name, value in _trainer("eagle").state().items() if value.shape == shape] == []


def test_a_new_version_of_the_target_brings_its_embedding_and_head() -> None:
    old, new = target_model(tied=False), target_model(tied=False, seed=9)
    trainer = DrafterTrainer(new_drafter("eagle", old), PLAIN, CPU)
    trainer.refresh(dict(new.state_dict()))
    assert torch.equal(trainer.drafter.tables.embedding, new.get_input_embeddings().weight)
    assert torch.equal(trainer.drafter.tables.head, new.get_output_embeddings().weight)
    assert not torch.equal(old.get_output_embeddings().weight, new.get_output_embeddings().weight)
    with pytest.raises(DrafterError, match=r"no tensor model\.embed_tokens\.weight"):
        trainer.refresh({})


def test_bfloat16_computes_close_to_float32_and_keeps_float32_masters() -> None:
    narrow = _trainer(settings=PLAIN.model_copy(update={"dtype": "bfloat16"}))
    windows = list(windows_of_target()[:6])
    assert narrow.micro_step(windows)["loss"] == pytest.approx(_trainer().micro_step(windows)["loss"], rel=0.03)
    assert {value.dtype for value in narrow.drafter.parameters()} == {torch.float32}


def test_losses_that_the_kind_cannot_have_and_empty_steps_are_refused() -> None:
    with pytest.raises(DrafterError, match="hidden_smooth_l1"):
        _trainer("eagle3", PLAIN.model_copy(update={"losses": {"hidden_smooth_l1": 1.0}}))
    with pytest.raises(ValueError, match="none of 0 windows"):
        _trainer().micro_step([])
