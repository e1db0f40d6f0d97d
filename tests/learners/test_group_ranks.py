"""Losses over whole groups, moments, masks and off-policy tokens on two ranks: the same result as on one."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from learners.batch import TrainBatch
from learners.learner import Learner
from learners.settings import AlgorithmSettings, TrainerSettings
from tests.learners.ranks import CPU, run_ranks
from tests.learners.tiny import grouped_batch, write_model

Outcome = tuple[dict[str, float], dict[str, torch.Tensor]]


def with_a_foreign_answer(batch: TrainBatch) -> TrainBatch:
    """The last answer of the last group was written by somebody else."""
    *own, last = batch.sequences
    length = len(last.response_ids)
    return TrainBatch(
        batch.version,
        (*own, replace(last, behaviour_logprobs=(float("nan"),) * length, off_policy=(True,) * length)),
    )


def train(rank: int, world_size: int, model: str, algorithm: AlgorithmSettings) -> Outcome:
    trainer = TrainerSettings.model_validate(
        {"dtype": "float32", "learning_rate": 1e-3, "token_budget": 150, "minibatches": 2}
    )
    learner = Learner(model, algorithm, trainer, temperature=1.0, rank=rank, world_size=world_size, device=CPU)
    metrics = learner.step(with_a_foreign_answer(grouped_batch()))
    return metrics, learner.snapshot(1)[1]


@pytest.mark.parametrize(
    "algorithm",
    [
        {"surrogate": "trpa", "aggregation": "sequence"},
        {"surrogate": "rover", "masks": [{"name": "unlikely_tokens"}, {"name": "curvature"}]},
    ],
)
def test_two_ranks_do_what_one_does(tmp_path: Path, algorithm: dict[str, object]) -> None:
    model, settings = write_model(tmp_path / "model"), AlgorithmSettings.model_validate(algorithm)
    ((alone, weights),) = run_ranks(1, train, model, settings, folder=tmp_path / "one")
    (first, shared), (second, _) = run_ranks(2, train, model, settings, folder=tmp_path / "two")
    assert alone["off_policy_fraction"] > 0
    assert alone["grad_norm"] > 0
    for name in alone.keys() - {"seconds"}:
        assert first[name] == second[name], name
        assert first[name] == pytest.approx(alone[name], rel=1e-3, abs=1e-5), name
    for name, value in weights.items():
        torch.testing.assert_close(shared[name], value, atol=2e-5, rtol=0, msg=lambda m, n=name: f"{n}: {m}")
