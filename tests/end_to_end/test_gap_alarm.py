"""The alarm on the gap between engine and learner in a whole run: nothing agrees to a billionth of a nat."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.conftest import RunFolder, paceline, run

pytestmark = pytest.mark.slow
WriteRecipe = Callable[..., Path]
SYNCHRONOUS = {"max_staleness": 0}


def test_it_warns_once_of_the_probe_and_once_of_the_tokens(write_recipe: WriteRecipe) -> None:
    alarm = {"limit": 1e-12, "patience": 2}
    done = run(write_recipe(rollout=SYNCHRONOUS, trainer={"steps": 3}, weight_sync={"gap_alarm": alarm}))
    warnings = [str(event["message"]) for event in done.events("warning")]
    assert len(warnings) == 2
    assert sum("disagree on the probe" in warning for warning in warnings) == 1
    assert sum("disagree on freshly sampled tokens" in warning for warning in warnings) == 1
    assert all("weight_sync.gap_alarm.limit" in warning for warning in warnings)


def test_it_stops_the_run_in_one_line_where_the_recipe_says_so(write_recipe: WriteRecipe, tmp_path: Path) -> None:
    alarm = {"limit": 1e-12, "patience": 3, "action": "stop"}
    recipe = write_recipe(rollout=SYNCHRONOUS, trainer={"steps": 50}, weight_sync={"gap_alarm": alarm})
    done = paceline("train", str(recipe))
    assert done.code == 1, done.out
    assert "engine and learner disagree on" in done.err
    assert done.err.strip().count("\n") == 0, done.err
    summary = RunFolder(tmp_path / "run").summary
    assert summary["status"] == "failed"
    assert 1 <= int(str(summary["steps"])) < 10
