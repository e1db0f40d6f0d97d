"""Whole runs in which rewards remember prompts: across a kill, and until a prompt is given up."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.conftest import RunFolder, paceline, run
from tests.end_to_end.test_resume import kill_after, rows

pytestmark = pytest.mark.slow
WriteRecipe = Callable[..., Path]
OWN = "tests.end_to_end.own_rewards"


def questions(folder: Path, *texts: str) -> dict[str, object]:
    """The data section of a recipe over these questions alone."""
    path = folder / "questions.jsonl"
    path.write_text("".join(json.dumps({"question": text, "answer": "1"}) + "\n" for text in texts), encoding="utf-8")
    return {"path": str(path), "tasks": None, "eval_size": 0}


def test_what_is_remembered_of_a_prompt_outlives_the_run(write_recipe: WriteRecipe, tmp_path: Path) -> None:
    """Four prompts, two a step: each is new in the first two steps and known ever after, killed or not."""
    recipe = write_recipe(
        data=questions(tmp_path, "one", "two", "three", "four"),
        rollout={"max_staleness": 0},
        reward={"terms": [{"name": f"{OWN}:low_bytes"}, {"name": f"{OWN}:seen_before", "weight": 0.0}]},
        algorithm={"drop_zero_variance": False},
        trainer={"steps": 8, "checkpoint_every": 2},
    )
    folder = RunFolder(tmp_path / "run")
    kill_after(recipe, folder, checkpoint=2, step=3)
    resumed = paceline("resume", str(folder.path))
    assert resumed.code == 0, resumed.out + resumed.err
    assert [row["step"] for row in rows(folder)] == list(range(1, 9))
    assert [row["reward/seen_before"] for row in rows(folder)] == [0.0, 0.0, *[1.0] * 6]


def test_a_prompt_on_which_scoring_hangs_is_given_up(write_recipe: WriteRecipe, tmp_path: Path) -> None:
    recipe = write_recipe(
        data=questions(tmp_path, "easy", "hard"),
        rollout={"max_staleness": 0, "group_size": 2},
        reward={"terms": [{"name": f"{OWN}:hangs_on_hard_ones"}], "deadline_s": 1.0, "quarantine_after": 2},
        algorithm={"drop_zero_variance": False},
        trainer={"steps": 4, "checkpoint_every": 4},
    )
    done = run(recipe)
    resumed = paceline("resume", str(done.path), "trainer.steps=6")
    assert resumed.code == 0, resumed.out + resumed.err
    (given_up,) = done.events("quarantined")
    hard = given_up["prompt"]
    failures = [event["kind"] for event in done.events("reward_error")]
    # Two visits of two answers each ran into the deadline; the other four were not scored, in whichever process.
    assert failures == ["timeout"] * 4 + ["quarantined"] * 8
    shown = paceline("report", str(done.path))
    assert f"In quarantine: {hard}" in shown.out
    assert "4 answers got the fallback: timeout in hangs_on_hard_ones" in shown.out
