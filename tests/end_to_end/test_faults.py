"""Whole runs in which real processes are killed or stopped: what is lost is named, and the account stays exact."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.end_to_end.conftest import ROOT, RunFolder, descendants, environment, start, wait_for

pytestmark = pytest.mark.slow
WriteRecipe = Callable[..., Path]


def assert_exact(folder: RunFolder) -> dict[str, int]:
    """dispatched = trained + filtered + dropped + failed + pending, and the events say the same."""
    prompts: dict[str, int] = folder.summary["prompts"]  # type: ignore[assignment]
    assert prompts["dispatched"] == sum(prompts.values()) - prompts["dispatched"]
    assert prompts["dispatched"] == len(folder.events("dispatched"))
    trained = [group["group"] for event in folder.events("trained") for group in event["groups"]]  # type: ignore[attr-defined]
    assert len(trained) == len(set(trained))
    return prompts


def process_of(run: "subprocess.Popen[str]", actor: str) -> psutil.Process:
    return next(p for p in descendants(run) if f"ray::{actor}" in " ".join(p.cmdline()))


def test_killing_the_only_rollout_worker_delays_the_run_and_loses_nothing(
    write_recipe: WriteRecipe, tmp_path: Path
) -> None:
    process = start(write_recipe(rollout={"max_response_tokens": 60}, trainer={"steps": 8}))
    folder = RunFolder(tmp_path / "run")
    wait_for(lambda: (folder.path / "metrics.jsonl").exists() and folder.events("trained"), process)
    process_of(process, "RolloutWorker").kill()
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, out + err
    assert folder.summary["status"] == "completed"
    assert folder.summary["faults"]["survived"] == 1  # type: ignore[index]
    assert [event["worker"] for event in folder.events("worker_lost")] == ["rollout-0"]
    assert [event["worker"] for event in folder.events("worker_joined")] == ["rollout-0"]
    prompts = assert_exact(folder)
    assert (prompts["trained"], prompts["failed"], prompts["pending"]) == (16, 0, 0)


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP])
def test_a_reward_worker_that_dies_or_hangs_is_replaced(
    write_recipe: WriteRecipe, tmp_path: Path, blow: signal.Signals
) -> None:
    recipe = write_recipe(
        reward={"terms": [{"name": "tests.end_to_end.own_rewards:low_bytes"}], "heartbeat_s": 2.0},
        trainer={"steps": 12},
    )
    process = start(recipe)
    folder = RunFolder(tmp_path / "run")
    wait_for(lambda: (folder.path / "metrics.jsonl").exists() and folder.events("trained"), process)
    process_of(process, "RewardWorker").send_signal(blow)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, out + err
    assert [event["worker"] for event in folder.events("worker_lost")] == ["reward"]
    prompts = assert_exact(folder)
    assert (prompts["trained"], prompts["failed"], prompts["pending"]) == (24, 0, 0)


def test_a_learner_killed_between_gradient_and_publish_ends_the_run_with_an_exact_account(
    write_recipe: WriteRecipe, tmp_path: Path
) -> None:
    recipe = write_recipe(trainer={"steps": 6})
    done = subprocess.run(
        [sys.executable, "-m", "tests.end_to_end.kill_learner_before_publish", str(recipe)],
        capture_output=True,
        text=True,
        timeout=200,
        cwd=ROOT,
        env=environment(),
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "the learner died" in done.stderr
    folder = RunFolder(tmp_path / "run")
    assert folder.summary["status"] == "failed"
    prompts = assert_exact(folder)
    # Two gradient steps were made, the second was never published.
    assert prompts["trained"] == 4
    assert max(event["version"] for event in folder.events("sync")) == 1  # type: ignore[type-var]
    trace = json.loads((folder.path / "trace.json").read_text())
    assert trace["traceEvents"], "a run that failed leaves its trace too"
