"""Whole runs whose reward is how likely the policy finds the reference after its own reasoning, on both engines."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.conftest import run
from tests.end_to_end.test_resume import rows

pytestmark = pytest.mark.slow
WriteRecipe = Callable[..., Path]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("engine", ["torch", "vllm"])
def test_the_policy_pays_itself(write_recipe: WriteRecipe, engine: str) -> None:
    recipe = write_recipe(
        rollout={"engine": engine, "max_response_tokens": 48, "likelihood": {"opening": "a"}, "max_staleness": 1},
        reward={
            "terms": [
                {"name": "tests.end_to_end.own_rewards:low_bytes", "weight": 0.0},
                {"name": "rlpr", "options": {"debias": False}},
            ]
        },
        algorithm={"advantage": "dr_grpo", "group_filters": [{"name": "low_spread", "options": {"share": 0.1}}]},
        trainer={"steps": 3},
        tracking={"samples_every": 1},
    )
    done = run(recipe)
    assert done.summary["status"] == "completed"
    assert done.events("reward_error") == []
    assert [0 < row["reward"] == row["reward/rlpr"] for row in rows(done)] == [True] * 3
    files = sorted((done.path / "samples").glob("*.jsonl"))
    answers = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    # The place of an answer is behind the last "a"; a text without one has none.
    found = {("a" in answer["text"], answer["terms"]["rlpr"] > 0) for answer in answers}
    assert found == {(True, True), (False, False)}
