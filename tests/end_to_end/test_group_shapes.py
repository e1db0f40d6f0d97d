"""Whole runs of methods that ask more of a group than equal samples: greedy answers, probes, budgets, solutions."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.conftest import RunFolder, paceline, run
from tests.end_to_end.test_faults import assert_exact

pytestmark = pytest.mark.slow
WriteRecipe = Callable[..., Path]


def metrics_of(done: RunFolder) -> list[dict[str, float]]:
    return [json.loads(line) for line in (done.path / "metrics.jsonl").read_text().splitlines()]


def samples_of(done: RunFolder, step: int) -> list[dict[str, object]]:
    found = next((done.path / "samples").glob(f"step-{step:06d}*"))
    return [json.loads(line) for line in found.read_text().splitlines()]


def test_remax_samples_a_greedy_answer_beside_each_group_and_trains_on_the_others(write_recipe: WriteRecipe) -> None:
    recipe = write_recipe(
        rollout={"group_size": 3, "max_staleness": 0},
        algorithm={
            "advantage": "remax",
            "surrogate": "rover",
            "masks": [{"name": "unlikely_tokens"}, {"name": "curvature", "options": {"step": 1e-4}}],
        },
        trainer={"minibatches": 2},
    )
    done = run(recipe)
    assert assert_exact(done)["trained"] == 4
    assert all(len(event["rewards"]) == 4 for event in done.events("scored"))  # type: ignore[arg-type]
    rows = metrics_of(done)
    assert all(row["learner/grad_norm"] > 0 and row["length_bias/mean_ratio"] == 1 for row in rows)
    assert all(0 < row["learner/mask/unlikely_tokens"] <= 1 for row in rows)
    # Greedy answers to a prompt that comes again under the same weights are the same; sampled ones are not.
    texts = [row["text"] for row in samples_of(done, 1)]
    assert len(texts) == 8
    assert paceline("report", str(done.path)).code == 0


def test_spo_probes_each_answer_and_trains_on_its_segments(write_recipe: WriteRecipe) -> None:
    recipe = write_recipe(
        rollout={"group_size": 2, "probes": {"every": 4, "samples": 2}, "max_staleness": 1},
        algorithm={"advantage": "spo_chain", "group_filters": [{"name": "solve_rate", "options": {"high": 0.99}}]},
        trainer={"stream": True},
    )
    done = run(recipe)
    prompts = assert_exact(done)
    assert prompts["trained"] == 4
    assert all(len(event["rewards"]) == 2 for event in done.events("scored"))  # type: ignore[arg-type]
    answered = sum(segment[1] for event in done.events("sampled") for segment in event["segments"])  # type: ignore[attr-defined]
    assert done.summary["tokens_generated"] > 1.5 * answered, "the probes sampled more"  # type: ignore[operator]
    assert all(row["learner/grad_norm"] > 0 for row in metrics_of(done))


def test_answers_under_budgets_and_a_worked_solution_make_one_group(write_recipe: WriteRecipe, tmp_path: Path) -> None:
    data = tmp_path / "sums.jsonl"
    rows = [{"question": f"{a} + {a}", "answer": str(2 * a), "worked": f"sum{2 * a}"} for a in range(40)]
    data.write_text("\n".join(map(json.dumps, rows)))
    recipe = write_recipe(
        data={
            "tasks": None,
            "path": str(data),
            "eval_size": 4,
            "template": "{question} in {metadata[budget]} tokens: ",
        },
        rollout={"budgets": [6, 12], "anchors": {"solution": "worked"}, "max_staleness": 0},
        reward={
            "terms": [
                {"name": "tests.end_to_end.own_rewards:low_bytes"},
                {"name": "overlong", "weight": 0.1, "options": {"buffer": 6}},
            ]
        },
        algorithm={"advantage": "hbpo", "surrogate": "trpa", "aggregation": "sequence"},
        trainer={"token_budget": 4096, "minibatches": 2},
    )
    done = run(recipe)
    assert assert_exact(done)["trained"] == 4
    rows_of_step = samples_of(done, 1)
    assert sum(str(row["text"]).startswith("sum") for row in rows_of_step) == 2, "a solution in either group"
    # The first half of a group was asked for under 6 tokens, so that 12 are all of the punishment.
    long = [row for row in rows_of_step if row["finish"] == "length"]
    punished = {str(row["sample"]).split("/")[1]: row["terms"]["overlong"] for row in long}  # type: ignore[index]
    assert set(punished.values()) <= {-1.0}
    assert all(0 < row["learner/off_policy_fraction"] < 0.5 for row in metrics_of(done))
    assert all(row["learner/grad_norm"] > 0 for row in metrics_of(done))


def test_a_column_that_is_not_there_is_named_before_anything_starts(write_recipe: WriteRecipe) -> None:
    done = paceline("train", str(write_recipe(rollout={"anchors": {"solution": "worked"}})))
    assert done.code != 0
    assert "rollout.anchors.solution" in done.err + done.out
    assert "no column 'worked'" in " ".join((done.err + done.out).split())
