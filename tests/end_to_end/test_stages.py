"""Runs of several stages: real learners and engines, weights handed over, and what is complete is not repeated."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from tests.end_to_end.conftest import RunFolder, paceline, run
from tests.end_to_end.test_resume import kill_after, rows

pytestmark = pytest.mark.slow
WriteRecipe = Callable[..., Path]


@pytest.fixture
def examples(tmp_path: Path) -> str:
    path = tmp_path / "examples.jsonl"
    rows = [{"prompt": f"{n} + 1 =", "response": f"{n + 1}"} for n in range(9)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


def metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.timeout(600)  # four runs
def test_stages_hand_over_and_are_not_repeated(write_recipe: WriteRecipe, examples: str, checkpoint: Path) -> None:
    # Every step sees all examples, on two ranks.
    trainer = {"steps": 3, "prompts_per_step": 9}
    sft = {"name": "sft", "kind": "sft", "examples": {"path": examples}, "trainer": trainer}
    dpo = {"name": "dpo", "kind": "preference", "pairs": {"rule": "best_worst"}, "topology": {"learner": {"ranks": 1}}}
    recipe = write_recipe(stages=[sft, dpo], topology={"learner": {"ranks": 2}})
    done = run(recipe)
    first, second = done.path / "stages" / "1-sft", done.path / "stages" / "2-dpo"
    summary = done.summary
    stages = summary["stages"]
    assert isinstance(stages, list)
    assert summary["status"] == "completed"
    assert summary["steps"] == 5
    assert [(s["name"], s["kind"], s["status"], s["steps"]) for s in stages] == [
        ("sft", "sft", "completed", 3),
        ("dpo", "preference", "completed", 2),
    ]
    losses = [row["learner/loss"] for row in metrics(first)]
    assert losses[0] > losses[1] > losses[2]

    # The second begins where the first ended, and that is its reference: at its first step the two are one.
    assert yaml.safe_load((second / "config.yaml").read_text())["model"] == str(first / "model")
    assert not same(weights(checkpoint), weights(first / "model"))
    assert not same(weights(first / "model"), weights(second / "model"))
    assert same(weights(second / "model"), weights(done.path / "model"))
    row = metrics(second)[0]
    assert row["learner/preference/margin"] == pytest.approx(0.0, abs=1e-3)
    assert row["learner/loss"] == pytest.approx(0.6931, abs=1e-3)
    trained = RunFolder(second).events("trained")
    assert [len(event["groups"]) for event in trained] == [2, 2]  # type: ignore[arg-type]

    # Started again, nothing is repeated; a stage that was stopped begins anew, and the one before it does not.
    before = (first / "summary.json").stat().st_mtime_ns
    again = paceline("train", str(recipe))
    assert again.code == 0, again.err
    assert again.out.count("complete already") == 2
    stopped = json.loads((second / "summary.json").read_text())
    (second / "summary.json").write_text(json.dumps({**stopped, "status": "interrupted"}))
    resumed = paceline("train", str(recipe))
    assert resumed.code == 0, resumed.err
    assert resumed.out.count("complete already") == 1
    assert (done.path / "stages" / "2-dpo.attempt-1" / "summary.json").is_file()
    assert (first / "summary.json").stat().st_mtime_ns == before
    assert RunFolder(done.path).summary["status"] == "completed"

    changed = paceline("train", str(recipe), "stages.sft.trainer.steps=4")
    assert changed.code == 2
    assert "stages.sft.trainer.steps was 3 and is 4" in changed.err


@pytest.mark.timeout(600)
def test_a_stage_that_is_killed_goes_on_where_it_was(write_recipe: WriteRecipe, examples: str, tmp_path: Path) -> None:
    sft = {"name": "sft", "kind": "sft", "examples": {"path": examples}}
    rl = {"name": "rl", "optimizer": "carry", "trainer": {"steps": 8, "checkpoint_every": 2}}
    recipe = write_recipe(stages=[sft, rl])
    whole = RunFolder(tmp_path / "run")
    first, second = (RunFolder(whole.path / "stages" / name) for name in ("1-sft", "2-rl"))
    kill_after(recipe, second, checkpoint=2, step=3)
    assert (first.path / "optimizer" / ".metadata").is_file()
    made = (first.path / "summary.json").stat().st_mtime_ns

    refused = paceline("resume", str(whole.path), "seed=3")
    assert "holds several stages, which go on as they began" in refused.err
    resumed = paceline("resume", str(whole.path))
    assert resumed.code == 0, resumed.out + resumed.err
    assert "stage 1 sft: complete already" in resumed.out
    assert (first.path / "summary.json").stat().st_mtime_ns == made
    assert [row["step"] for row in rows(second)] == list(range(1, 9))
    (going_on,) = second.events("run_resumed")
    assert int(str(going_on["step"])) >= 2
    assert not list((whole.path / "stages").glob("*.attempt-*"))
    assert whole.summary["status"] == "completed"
    assert same(weights(second.path / "model"), weights(whole.path / "model"))


@pytest.mark.timeout(600)
def test_supervised_steps_that_are_killed_go_on_with_the_same_examples(
    write_recipe: WriteRecipe, examples: str, checkpoint: Path, tmp_path: Path
) -> None:
    trainer = {**yaml.safe_load(write_recipe().read_text())["trainer"], "steps": 60}
    sft = {"name": "sft", "kind": "sft", "model": str(checkpoint), "examples": {"path": examples}}
    recipe = tmp_path / "sft.yaml"
    killed, straight = RunFolder(tmp_path / "killed"), RunFolder(tmp_path / "straight")
    recipe.write_text(yaml.safe_dump({**sft, "trainer": trainer}))
    run(recipe, f"run_dir={straight.path}")
    recipe.write_text(yaml.safe_dump({**sft, "trainer": {**trainer, "checkpoint_every": 5}}))
    kill_after(recipe, killed, f"run_dir={killed.path}", checkpoint=5, step=6)
    resumed = paceline("resume", str(killed.path))
    assert resumed.code == 0, resumed.out + resumed.err
    assert [row["step"] for row in rows(killed)] == list(range(1, 61))
    (going_on,) = killed.events("run_resumed")
    assert 5 <= int(str(going_on["step"])) < 60
    assert {**killed.summary, "wall_s": 0} == {**straight.summary, "wall_s": 0}
    assert same(weights(killed.path / "model"), weights(straight.path / "model"))
    assert "all of its 60 steps are made" in paceline("resume", str(killed.path)).err


def test_a_round_of_rejection_sampling_may_begin_anew(write_recipe: WriteRecipe) -> None:
    recipe = write_recipe(
        kind="rejection",
        keep={"rule": "best", "per_prompt": 2, "restart": True},
        rollout={"max_staleness": 0},
        trainer={"steps": 3, "minibatches": 2},
    )
    done = run(recipe)
    rows = metrics(done.path)
    assert len(rows) == 3
    # Two of four answers to each of two prompts are kept, 12 tokens at most each.
    assert all(0 < row["learner/trained_tokens"] <= 4 * 12 for row in rows)
    assert all("learner/engine_gap" not in row for row in rows)
    trained = done.events("trained")
    assert [event["version"] for event in trained] == [0, 1, 2]
    assert done.summary["weight_sync"]["attested"] == 5  # type: ignore[index]


def test_a_fault_in_a_later_stage_is_found_before_the_first(
    write_recipe: WriteRecipe, examples: str, tmp_path: Path
) -> None:
    sft = {"name": "sft", "kind": "sft", "examples": {"path": examples}}
    recipe = write_recipe(stages=[sft, {"name": "rl", "data": {"path": "nowhere.jsonl"}}])
    refused = paceline("train", str(recipe))
    assert refused.code == 2
    assert refused.err.startswith("paceline: stages.rl.data.path: nowhere.jsonl does not exist")
    assert refused.err.strip().count("\n") == 0
    teacher = {"name": "opd", "kind": "distill", "algorithm": {"teacher": {"model": "./no-such-teacher"}}}
    refused = paceline("train", str(write_recipe(stages=[sft, teacher])))
    assert refused.err.startswith("paceline: stages.opd.algorithm.teacher.model: ./no-such-teacher is not a folder")
    assert not (tmp_path / "run").exists()
