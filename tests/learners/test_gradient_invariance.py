"""The gradient of a batch is one thing: it depends neither on the token budget, nor on who shares a row, nor on ranks.

Gradients are compared themselves, not the weights after AdamW, which divides a wrong scale out again.
"""

from pathlib import Path

import pytest
import torch

from learners.learner import Learner
from learners.settings import AlgorithmSettings, TrainerSettings
from tests.learners.gradient_sums import assert_same_gradients, gradient_sums
from tests.learners.ranks import CPU, run_ranks
from tests.learners.tiny import random_batch, tiny_model, write_model

BUDGETS = (40, 97, 10_000)
"""Rows of one sequence or two; of a few; of all that a rank has."""
ALGORITHMS: dict[str, dict[str, object]] = {
    "tokens weigh alike": {"terms": [{"name": "entropy", "weight": 0.02}]},
    "answers weigh alike": {"aggregation": "sequence", "surrogate": "gspo", "correction": {"level": "sequence"}},
    "tokens far from a teacher": {"terms": [{"name": "kl_k3", "weight": 0.1, "against": "teacher"}]},
}
Sums = dict[str, torch.Tensor]


def gradients(rank: int, ranks: int, model: str, teacher: str, sequence_parallel: int) -> dict[tuple[str, int], Sums]:
    outcome = {}
    for name, algorithm in ALGORITHMS.items():
        for budget in BUDGETS:
            learner = Learner(
                model,
                AlgorithmSettings.model_validate({**algorithm, "teacher": {"model": teacher}}),
                TrainerSettings(dtype="float32", token_budget=budget),
                temperature=1.0,
                rank=rank,
                world_size=ranks,
                device=CPU,
                sequence_parallel=sequence_parallel,
            )
            outcome[name, budget] = gradient_sums(learner, random_batch(sequences=17).sequences)
    return outcome


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("models")
    tiny_model(seed=7).save_pretrained(folder / "teacher")
    return write_model(folder / "model"), str(folder / "teacher")


@pytest.fixture(scope="module")
def alone(models: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], Sums]:
    return run_ranks(1, gradients, *models, 1, folder=tmp_path_factory.mktemp("alone"))[0]


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("budget", BUDGETS[:-1])
def test_however_the_batch_is_cut(alone: dict[tuple[str, int], Sums], name: str, budget: int) -> None:
    assert_same_gradients(alone[name, budget], alone[name, BUDGETS[-1]], 2e-5)


@pytest.mark.parametrize(("ranks", "sequence_parallel"), [(2, 1), (3, 1), (2, 2)])
def test_however_many_compute_it(
    models: tuple[str, str], alone: dict[tuple[str, int], Sums], tmp_path: Path, ranks: int, sequence_parallel: int
) -> None:
    together = run_ranks(ranks, gradients, *models, sequence_parallel, folder=tmp_path)
    for outcome in together:
        for case, sums in outcome.items():
            assert_same_gradients(sums, alone[case[0], BUDGETS[-1]], 2e-5)
