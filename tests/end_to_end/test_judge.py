"""Whole runs whose rewards ask a model: a tiny one that talks nonsense, one that is killed, one at an endpoint with a
key, one that cannot start."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.conftest import ROOT, RunFolder, command, environment, paceline, run, start, wait_for
from tests.end_to_end.test_faults import assert_exact, process_of
from tests.rewards.judging.scripted_server import Asked, Reply, chat, serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(700)]
START_S = 300.0
"""For all actors of a run, a judge among them, to start on two cores that others use as well."""
WriteRecipe = Callable[..., Path]
LOW_BYTES = "tests.end_to_end.own_rewards:low_bytes"
KEY = "sk-never-to-be-seen-4711"


def judged(checkpoint: Path, **changes: object) -> dict[str, object]:
    """A reward of letters and a judge; the latter is a tiny model with random weights."""
    model = {"model": str(checkpoint), "engine": "torch", "dtype": "float32", "context_length": 96, **changes}
    term = {"name": "judge", "fallback": 0.0, "weight": 0.5, "options": {"max_tokens": 8}}
    return {"terms": [LOW_BYTES, term], "models": {"judge": model}, "deadline_s": 30.0}


def metrics(folder: RunFolder) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder.path / "metrics.jsonl").read_text().splitlines()]


def test_a_judge_that_talks_nonsense_is_counted_and_the_run_completes(
    write_recipe: WriteRecipe, checkpoint: Path
) -> None:
    folder = run(write_recipe(reward=judged(checkpoint)))
    assert folder.summary["status"] == "completed"
    assert_exact(folder)
    steps = metrics(folder)
    assert all(step["reward_fallback/malformed/judge"] == step["reward_fallback"] == 8 for step in steps)
    assert all((step["reward_failed"], step["reward/judge"]) == (0, 0) for step in steps)
    events = folder.events("reward_fallback")
    assert len(events) >= 16
    assert {(event["kind"], event["term"]) for event in events} == {("malformed", "judge")}
    shown = paceline("report", str(folder.path))
    assert "malformed in judge" in shown.out, shown.out + shown.err


def test_a_judge_that_is_killed_is_replaced_and_the_run_completes(
    write_recipe: WriteRecipe, checkpoint: Path, tmp_path: Path
) -> None:
    # Calls are made again for so long that the run cannot end before the successor serves.
    reward = {**judged(checkpoint, retries=1000), "deadline_s": 250.0}
    process = start(write_recipe(reward=reward, trainer={"steps": 10}))
    folder = RunFolder(tmp_path / "run")
    wait_for(lambda: (folder.path / "metrics.jsonl").exists() and folder.events("trained"), process, START_S)
    process_of(process, "ModelServer").kill()
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err
    assert folder.summary["status"] == "completed"
    assert [event["worker"] for event in folder.events("worker_lost")] == ["model-judge"]
    assert [event["worker"] for event in folder.events("model_serves")] == ["model-judge"]
    prompts = assert_exact(folder)
    assert (prompts["trained"], prompts["failed"]) == (20, 0)
    kinds = {event["kind"] for event in folder.events("reward_fallback")}
    assert kinds == {"malformed", "unreachable"} or kinds == {"malformed"}, "nothing but nonsense, and nobody there"
    assert all(step["reward_fallback"] == 8 and step["reward_failed"] == 0 for step in metrics(folder))


def test_a_key_is_sent_to_the_endpoint_and_stands_in_no_file(
    write_recipe: WriteRecipe, checkpoint: Path, tmp_path: Path
) -> None:
    """The server repeats the key in every error that it gives; half of its replies are errors."""

    def script(asked: Asked) -> Reply:
        if len(server.asked) % 2:
            return Reply({"error": f"wrong: {asked.authorization}"}, status=401)
        return chat("Score: 5")

    with serving() as server:
        server.script = script
        reward = judged(checkpoint)
        reward["models"] = {"judge": {"model": "m", "url": server.url, "api_key_env": "JUDGE_KEY"}}
        done = subprocess.run(
            command("train", str(write_recipe(reward=reward))),
            capture_output=True,
            text=True,
            timeout=240,
            cwd=ROOT,
            env={**environment(), "JUDGE_KEY": KEY},
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert {asked.authorization for asked in server.asked} == {f"Bearer {KEY}"}
    folder = RunFolder(tmp_path / "run")
    assert {event["kind"] for event in folder.events("reward_fallback")} == {"refused"}
    assert KEY not in done.stdout + done.stderr
    files = [file for file in folder.path.rglob("*") if file.is_file()]
    assert len(files) > 5
    assert not [file for file in files if KEY.encode() in file.read_bytes()]
    assert "api_key_env: JUDGE_KEY" in (folder.path / "config.yaml").read_text()


def test_a_key_that_is_missing_is_said_before_anything_starts(write_recipe: WriteRecipe, checkpoint: Path) -> None:
    reward = judged(checkpoint)
    reward["models"] = {"judge": {"model": "m", "url": "http://127.0.0.1:9/v1", "api_key_env": "NO_SUCH_KEY"}}
    done = paceline("train", str(write_recipe(reward=reward)))
    assert done.code == 2
    assert done.err.strip() == (
        "paceline: reward.models.judge.api_key_env: no environment variable of this name is set; "
        "export it before the run"
    )


def test_a_judge_that_cannot_start_is_one_line(write_recipe: WriteRecipe, checkpoint: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(checkpoint, broken)
    (broken / "model.safetensors").write_bytes(b"no tensors")
    done = paceline("train", str(write_recipe(reward=judged(broken))))
    assert done.code == 1
    assert "Traceback" not in done.out + done.err
    (line,) = [line for line in done.err.splitlines() if line.startswith("paceline: ")]
    assert line.startswith("paceline: an actor did not start: ")


def test_vllm_serves_a_judge(write_recipe: WriteRecipe, checkpoint: Path) -> None:
    model = judged(checkpoint, engine="vllm", kv_cache_gib=0.1)
    folder = run(write_recipe(reward=model, trainer={"steps": 1}))
    assert folder.summary["status"] == "completed"
    assert folder.events("reward_fallback")
    assert {event["kind"] for event in folder.events("reward_fallback")} == {"malformed"}
