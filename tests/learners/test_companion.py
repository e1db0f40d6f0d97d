"""Policies beside the trained one: when they are loaded, what they say, how they follow."""

from pathlib import Path

import pytest
import torch

from learners.errors import PolicyError
from learners.learner import Learner
from learners.settings import AlgorithmSettings
from learners.sharding import local_shard
from tests.learners.tiny import make_learner, random_batch, tiny_model

pytestmark = pytest.mark.usefixtures("group")


def learner(model: str, **algorithm: object) -> Learner:
    return make_learner(model, algorithm, learning_rate=1e-2)


def kl(weight: float, name: str = "kl_k2", against: str = "reference") -> dict[str, object]:
    return {"name": name, "weight": weight, "against": against}


def own_weights(trained: Learner, name: str = "reference") -> dict[str, torch.Tensor]:
    """Copies of a companion's weights."""
    policy = trained._companions[name]._policy
    return {key: local_shard(value.detach()).clone() for key, value in policy.model.named_parameters()}


def trained_weights(trained: Learner) -> dict[str, torch.Tensor]:
    return {key: local_shard(value.detach()).clone() for key, value in trained._policy.model.named_parameters()}


def test_none_is_loaded_that_no_term_compares_with(model: str) -> None:
    assert learner(model)._companions == {}
    assert learner(model, terms=[{"name": "entropy", "weight": 0.1}])._companions == {}
    assert list(learner(model, terms=[kl(0.1)])._companions) == ["reference"]


def test_at_the_first_step_policy_and_reference_are_one(model: str) -> None:
    trained = learner(model, terms=[kl(0.5, "kl_k3")])
    plain = learner(model)
    batch = random_batch()
    assert trained.step(batch)["term/kl_k3"] == pytest.approx(0.0, abs=1e-10)
    plain.step(batch)
    for name, value in trained.snapshot(1)[1].items():
        torch.testing.assert_close(value, plain.snapshot(1)[1][name], atol=1e-5, rtol=0)


def test_a_fixed_reference_never_moves_and_holds_the_policy_back(model: str) -> None:
    free, held = learner(model), learner(model, terms=[kl(50.0)])
    before = own_weights(held)
    for seed in range(4):
        free.step(random_batch(seed=seed))
        held.step(random_batch(seed=seed))
    after = own_weights(held)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert held.step(random_batch())["term/kl_k2"] < learner_distance(free, model)


def learner_distance(trained: Learner, model: str) -> float:
    """Mean k2 from the checkpoint that training began with, over the trained tokens of a batch."""
    watched = learner(model, terms=[kl(0.0)])
    for name, parameter in watched._policy.model.named_parameters():
        local_shard(parameter.detach()).copy_(trained_weights(trained)[name])
    return watched.step(random_batch())["term/kl_k2"]


def test_a_moving_reference_is_the_average_of_the_policys_past(model: str) -> None:
    trained = learner(model, terms=[kl(0.01)], reference={"kind": "moving", "decay": 0.5})
    expected = trained_weights(trained)
    for seed in range(3):
        trained.step(random_batch(seed=seed))
        now = trained_weights(trained)
        expected = {name: 0.5 * value + 0.5 * now[name] for name, value in expected.items()}
    for name, value in own_weights(trained).items():
        torch.testing.assert_close(value, expected[name])


def test_a_reference_that_is_reset_becomes_the_policy_every_few_steps(model: str) -> None:
    trained = learner(model, terms=[kl(0.01)], reference={"kind": "reset", "every": 2})
    first = own_weights(trained)
    trained.step(random_batch(seed=0))
    assert all(torch.equal(first[name], value) for name, value in own_weights(trained).items())
    trained.step(random_batch(seed=1))
    now = trained_weights(trained)
    assert all(torch.equal(now[name], value) for name, value in own_weights(trained).items())


def test_a_checkpoint_holds_a_moving_reference(model: str, tmp_path: Path) -> None:
    settings = {"terms": [kl(0.1)], "reference": {"kind": "moving", "decay": 0.9}}
    whole, first, second = (learner(model, **settings) for _ in range(3))
    for seed in range(2):
        whole.step(random_batch(seed=seed))
    first.step(random_batch(seed=0))
    first.save_checkpoint(tmp_path / "checkpoint")
    second.load_checkpoint(tmp_path / "checkpoint")
    second.step(random_batch(seed=1))
    assert all(torch.equal(value, own_weights(second)[name]) for name, value in own_weights(whole).items())


def test_a_teacher_teaches_by_its_term_alone(model: str, tmp_path: Path) -> None:
    tiny_model(seed=5).save_pretrained(tmp_path / "teacher")
    teacher = {"model": str(tmp_path / "teacher")}
    trained = learner(model, policy_weight=0.0, terms=[kl(1.0, against="teacher")], teacher=teacher)
    distances = [trained.step(random_batch())["term/kl_k2"] for _ in range(30)]
    assert distances[0] > 1.0
    assert distances[-1] < distances[0] / 4
    silent = learner(model, policy_weight=0.0, terms=[kl(0.0, against="teacher")], teacher=teacher)
    before = trained_weights(silent)
    silent.step(random_batch())
    assert all(torch.equal(before[name], value) for name, value in trained_weights(silent).items())


def test_a_companion_of_another_vocabulary_is_refused(model: str, tmp_path: Path) -> None:
    tiny_model(vocab_size=50).save_pretrained(tmp_path / "other")
    with pytest.raises(PolicyError, match="50 tokens, but the policy has 40"):
        learner(model, terms=[kl(1.0, against="teacher")], teacher={"model": str(tmp_path / "other")})


@pytest.mark.parametrize(
    ("algorithm", "says"),
    [
        ({"terms": [kl(1.0, against="teacher")]}, "set teacher.model"),
        ({"teacher": {}}, "teacher.model is missing"),
        ({"reference": {"kind": "moving", "model": "x"}}, "leave out one of the two"),
    ],
)
def test_settings_that_contradict_are_refused(algorithm: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        AlgorithmSettings.model_validate(algorithm)
