"""Runs that are killed as a whole, driver and all, and go on: the same set is trained once, the account is exact."""

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.end_to_end.conftest import RunFolder, descendants, paceline, run, start, wait_for
from tests.end_to_end.test_faults import assert_exact
from tests.end_to_end.test_speculation import EAGER

pytestmark = pytest.mark.slow
WriteRecipe = Callable[..., Path]


def kill_all(process: "subprocess.Popen[str]") -> None:
    """No part of the run hears of it."""
    family = descendants(process)
    os.kill(process.pid, signal.SIGKILL)
    for member in family:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue
    process.communicate(timeout=30)
    psutil.wait_procs(family, timeout=30)


def rows(folder: RunFolder) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder.path / "metrics.jsonl").read_text().splitlines()]


def kill_after(recipe: Path, folder: RunFolder, *overrides: str, checkpoint: int, step: int) -> None:
    """Start, and kill once this step is trained and the checkpoint of that one is there."""
    process = start(recipe, *overrides)
    published = folder.path / "checkpoints" / f"step-{checkpoint:06d}" / "run.json"
    wait_for(lambda: published.exists() and len(rows(folder)) >= step, process)
    kill_all(process)
    assert not (folder.path / "summary.json").exists()


def test_a_killed_run_goes_on_and_trains_the_same_set_once(write_recipe: WriteRecipe, tmp_path: Path) -> None:
    recipe = write_recipe(
        rollout={"max_response_tokens": 40, "max_staleness": 2},
        trainer={"steps": 14, "checkpoint_every": 2},
        topology={"learner": {"ranks": 2}},
        algorithm={"advantage": "dr_grpo", "advantage_norm": "task_std"},
    )
    folder = RunFolder(tmp_path / "run")
    kill_after(recipe, folder, checkpoint=4, step=5)
    lost = len(rows(folder))
    resumed = paceline("resume", str(folder.path), "topology.learner.ranks=1")
    assert resumed.code == 0, resumed.out + resumed.err
    assert "Traceback" not in resumed.out + resumed.err

    assert [row["step"] for row in rows(folder)] == list(range(1, 15))
    (going_on,) = folder.events("run_resumed")
    assert 4 <= int(str(going_on["step"])) <= lost
    assert folder.summary["status"] == "completed"
    assert folder.summary["steps"] == 14
    prompts = assert_exact(folder)
    assert (prompts["trained"], prompts["failed"], prompts["pending"]) == (28, 0, 0)
    dispatched = [event["group"] for event in folder.events("dispatched")]
    assert sorted(dispatched) == list(range(len(dispatched)))
    # What was in flight at the break was asked again, and trained.
    again = {event["group"] for event in folder.events("resumed")}
    trained = {group["group"] for event in folder.events("trained") for group in event["groups"]}  # type: ignore[attr-defined]
    assert again
    assert again <= trained | {event["group"] for event in folder.events("scored") if event["end"] == "filtered"}
    assert [event["version"] for event in folder.events("trained")] == list(range(14))
    # The sync drill repeats before the first prompt, at the version that the weights have.
    versions = [event["version"] for event in folder.events("sync")]
    assert versions[versions.index(-1, 1) + 1] == going_on["step"]
    assert (folder.path / "model" / "model.safetensors").is_file()
    assert sorted(p.name for p in (folder.path / "checkpoints").iterdir() if (p / "run.json").exists()) == [
        "step-000012",
        "step-000014",
    ]
    assert paceline("report", str(folder.path)).code == 0

    over = paceline("resume", str(folder.path))
    assert over.code == 2
    assert "all of its 14 steps are made" in over.err
    longer = paceline("resume", str(folder.path), "trainer.steps=15")
    assert longer.code == 0, longer.out + longer.err
    assert [row["step"] for row in rows(folder)] == list(range(1, 16))
    assert assert_exact(folder)["trained"] == 30
    assert (folder.path / "model.1").is_dir()


def test_what_cannot_be_resumed_is_one_line_before_training(write_recipe: WriteRecipe, tmp_path: Path) -> None:
    done = run(write_recipe(trainer={"steps": 2, "checkpoint_every": 1}))
    checkpoint = done.path / "checkpoints" / "step-000002"

    def refusal(*arguments: str) -> str:
        ended = paceline("resume", str(done.path), *arguments)
        assert ended.code in (1, 2), ended.out + ended.err
        assert ended.err.strip().count("\n") == 0, ended.err
        return ended.err

    assert "holds no run" in paceline("resume", str(tmp_path)).err
    assert "seed: it cannot change" in refusal("seed=3")
    assert "no checkpoint of step 7" in refusal("--step", "7")
    shard = next((checkpoint / "learner").glob("*.distcp"))
    shard.write_bytes(shard.read_bytes()[:-10])
    assert "the checkpoint is damaged" in refusal()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("engine", ["torch", "vllm"])
def test_a_deterministic_run_repeats_to_the_bit_whatever_the_order_of_its_answers(
    write_recipe: WriteRecipe, tmp_path: Path, engine: str
) -> None:
    """The second run starts its answers in another order, is broken off and goes on."""
    recipe = write_recipe(
        deterministic=True,
        rollout={"engine": engine, "max_staleness": 0, "max_response_tokens": 24},
        trainer={"steps": 4, "checkpoint_every": 2},
        topology={"learner": {"ranks": 2}},
        tracking={"samples_every": 1},
    )
    one = run(recipe, f"run_dir={tmp_path / 'one'}")
    other = RunFolder(tmp_path / "run")
    kill_after(recipe, other, "rollout.tail_order=fifo", checkpoint=2, step=3)
    resumed = paceline("resume", str(other.path))
    assert resumed.code == 0, resumed.out + resumed.err
    same_bits(one, other)


def same_bits(one: RunFolder, other: RunFolder) -> None:
    weights = [(folder.path / "model" / "model.safetensors").read_bytes() for folder in (one, other)]
    assert weights[0] == weights[1]
    for name in ("step-000001", "step-000002", "step-000004", "eval-held_out-000004"):
        samples = [(folder.path / "samples" / f"{name}.jsonl").read_text() for folder in (one, other)]
        assert samples[0] == samples[1], name
    names = ("reward", "learner/loss", "learner/grad_norm", "learner/engine_gap")
    learned = [[[row[name] for name in names] for row in rows(folder)] for folder in (one, other)]
    assert learned[0] == learned[1]


def test_a_resumed_run_drafts_with_the_drafter_that_served(write_recipe: WriteRecipe) -> None:
    recipe = write_recipe(
        rollout={"max_response_tokens": 40, "max_staleness": 1},
        trainer={"steps": 2, "checkpoint_every": 2},
        speculation=EAGER,
    )
    done = run(recipe)
    served = done.path / "checkpoints" / "step-000002" / "drafter"
    assert list(served.glob("*.safetensors"))
    before = done.summary["speculation"]["drafts"]  # type: ignore[index]
    resumed = paceline("resume", str(done.path), "trainer.steps=3")
    assert resumed.code == 0, resumed.out + resumed.err
    assert done.summary["speculation"]["drafts"] > 0  # type: ignore[index]
    assert before > 0
    assert not any("without speculation" in str(event["message"]) for event in done.events("warning"))
    assert (done.path / "drafter" / "trained.1").is_dir()
    assert (done.path / "drafter" / "trained").is_dir()
