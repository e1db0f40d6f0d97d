"""Whole runs that speculate: the drafter learns beside the run, and its versions reach the engines."""

from collections.abc import Callable
from pathlib import Path

import pytest

from learners.drafters.drafter_files import read_card
from tests.end_to_end.conftest import RunFolder, paceline, run
from tests.end_to_end.test_faults import assert_exact

pytestmark = pytest.mark.slow
WriteRecipe = Callable[..., Path]
STEPS = 8
EAGER = {
    "lengths": [0, 2],
    "governor": "fixed",
    "governor_options": {"1": 2},
    "retrain": {"policy": "always", "least_gap_s": 0.0, "session_steps": 10, "token_budget": 512, "beside_share": 1.0},
    "capture": {"window_length": 32, "tokens_per_pass": 1024, "dtype": "float32"},
    "windows": {"holdout_share": 0.4},
    "training": {"learning_rate": 0.01, "dtype": "float32"},
}


def speculating(write_recipe: WriteRecipe, engine: str, **speculation: object) -> Path:
    return write_recipe(
        rollout={"engine": engine, "max_response_tokens": 40, "max_staleness": 1},
        trainer={"steps": STEPS, "prompts_per_step": 4},
        speculation=speculation,
    )


@pytest.mark.parametrize("engine", ["torch", "vllm"])
def test_a_drafter_learns_in_the_run_and_its_versions_reach_the_engine(write_recipe: WriteRecipe, engine: str) -> None:
    done = run(speculating(write_recipe, engine, **EAGER))
    prompts = assert_exact(done)
    assert prompts["trained"] == STEPS * 4
    speculation = done.summary["speculation"]
    assert isinstance(speculation, dict)
    assert speculation["drafts"] > speculation["accepted"] > 0
    assert speculation["drafter_versions"] >= 1
    published = [event["published"] for event in done.events("drafter_studied") if event["published"] is not None]
    brought = [event["version"] for event in done.events("sync") if event["stream"] == "drafter"]
    assert set(brought) & set(published), "an engine took a version that passed the gate"
    assert all(event["failure"] is None for event in done.events("sync"))
    assert read_card(done.path / "drafter" / "trained").version == speculation["drafter_versions"]
    legs = [leg for event in done.events("sampled") for leg in event["legs"]]  # type: ignore[attr-defined]
    assert any(len(leg) == 5 and leg[4]["drafted"] >= leg[4]["accepted"] for leg in legs)


def test_greedy_answers_are_the_same_with_and_without_a_suffix_drafter(
    write_recipe: WriteRecipe, tmp_path: Path
) -> None:
    """The held-out evaluation before the first step is greedy: same weights, so the same answers."""

    def evaluated(word: str) -> list[str]:
        recipe = write_recipe(rollout={"max_response_tokens": 40}, run_dir=str(tmp_path / word))
        done = run(recipe, f"speculation={word}", "trainer.steps=1")
        return (done.path / "samples" / "eval-held_out-000000.jsonl").read_text().splitlines()

    assert evaluated("suffix") == evaluated("off")


def test_a_drafter_of_another_target_is_left_out_with_a_word_or_refused(
    write_recipe: WriteRecipe, tmp_path: Path
) -> None:
    folder = tmp_path / "no drafter"
    folder.mkdir()
    recipe = write_recipe(speculation={"checkpoint": str(folder)}, data={"eval_size": 0}, trainer={"steps": 1})
    done = paceline("train", str(recipe))
    assert done.code == 0, done.out + done.err
    assert "goes on without speculation" in done.out + done.err
    left = RunFolder(tmp_path / "run")
    assert left.summary["speculation"]["drafts"] == 0  # type: ignore[index]
    refused = paceline("train", str(recipe), "speculation.required=true", f"run_dir={tmp_path / 'other'}")
    assert refused.code == 2
    assert "drafter.json" in refused.err
    assert not (tmp_path / "other").exists()
    assert "Traceback" not in refused.err
