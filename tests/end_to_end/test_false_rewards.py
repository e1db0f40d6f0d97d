"""Whole runs whose rewards are wrong on purpose, with the overrides that docs/rewards.md gives."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.conftest import run
from tests.end_to_end.test_resume import rows
from tests.orchestrator.test_false_rewards import OVERRIDES

pytestmark = pytest.mark.slow
WriteRecipe = Callable[..., Path]


@pytest.mark.parametrize("overrides", OVERRIDES, ids=[overrides[0] for overrides in OVERRIDES])
def test_a_run_with_a_false_reward_ends(write_recipe: WriteRecipe, overrides: list[str]) -> None:
    recipe = write_recipe(
        reward={"terms": ["reasoning_gym"]}, algorithm={"drop_zero_variance": False}, data={"eval_size": 0}
    )
    done = run(recipe, *overrides)
    assert done.summary["status"] == "completed"
    assert [row["step"] for row in rows(done)] == [1, 2]
    assert all("reward/reasoning_gym" in row for row in rows(done))
    if "data.train_size=1" in overrides:
        asked = {str(event["prompt"]).partition("@")[0] for event in done.events("dispatched")}
        assert len(asked) == 1
