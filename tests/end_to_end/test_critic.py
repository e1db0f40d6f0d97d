"""Whole runs with a critic, and a run whose numbers go bad."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.conftest import RunFolder, paceline, run

pytestmark = pytest.mark.slow
WriteRecipe = Callable[..., Path]


def rows(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_with_a_critic_trains_single_answers_on_two_ranks(write_recipe: WriteRecipe) -> None:
    recipe = write_recipe(
        rollout={"group_size": 1},
        algorithm={
            "advantage": "gae",
            "advantage_norm": "batch_whiten",
            "critic": {"warmup_steps": 1, "learning_rate": 1.0e-3},
            "drop_zero_variance": False,
        },
        trainer={"steps": 4, "prompts_per_step": 8, "minibatches": 2},
        topology={"learner": {"ranks": 2}},
    )
    done = run(recipe)
    metrics = rows(done.path)
    assert done.summary["status"] == "completed"
    assert [row["learner/learning_rate"] for row in metrics] == [0.0, 1.0e-3, 1.0e-3, 1.0e-3]
    assert all(row["learner/value_loss"] > 0 for row in metrics)
    assert all(row["learner/critic_skipped_updates"] == row["learner/skipped_updates"] == 0 for row in metrics)
    # It begins at 0 and every answer earns something: the values rise to meet the rewards.
    assert metrics[-1]["learner/value_loss"] < metrics[0]["learner/value_loss"]


def test_a_run_whose_loss_is_never_finite_stops_with_one_line(write_recipe: WriteRecipe, tmp_path: Path) -> None:
    recipe = write_recipe(
        algorithm={"terms": [{"name": "tests.end_to_end.own_terms:infinite", "weight": 1.0}]},
        trainer={"steps": 9, "max_skipped_updates": 2},
    )
    done = paceline("train", str(recipe))
    assert done.code != 0
    lines = [line for line in done.err.splitlines() if line.startswith("paceline:")]
    assert len(lines) == 1
    assert "the last 2 updates of the policy were left out" in lines[0]
    assert "lower the learning rate" in lines[0]
    assert "Traceback" not in done.out + done.err
    folder = RunFolder(tmp_path / "run")
    assert folder.summary["status"] == "failed"
    (row,) = rows(folder.path)  # the step before the limit is on record
    assert row["learner/loss"] is None
    assert row["learner/skipped_updates"] == 1
