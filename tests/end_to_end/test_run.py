"""Whole runs of the real system: Ray, engines, learner, rewards, weight bus, in processes of their own."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.actors.subject import Subject
from tests.end_to_end.conftest import RunFolder, descendants, paceline, run, start, wait_for

pytestmark = pytest.mark.slow
WriteRecipe = Callable[..., Path]
PROBE = tuple(range(30, 70))


def test_a_synchronous_run_repeats_with_its_seed(write_recipe: WriteRecipe, tmp_path: Path) -> None:
    recipe = write_recipe(rollout={"max_staleness": 0}, trainer={"steps": 3})
    runs = [run(recipe, f"run_dir={tmp_path / name}", "seed=5") for name in ("a", "b")]
    prompts = [[(e["group"], e["prompt"], e["version"]) for e in r.events("dispatched")] for r in runs]
    trained = [[(e["step"], [g["group"] for g in e["groups"]]) for e in r.events("trained")] for r in runs]
    answers = [{e["group"]: e["rewards"] for e in r.events("scored")} for r in runs]
    assert prompts[0] == prompts[1]
    assert trained[0] == trained[1]
    assert answers[0] == answers[1]
    assert runs[0].summary["staleness"] == {"mean": 0.0, "max": 0}
    weights = [AutoModelForCausalLM.from_pretrained(r.path / "model").state_dict() for r in runs]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_an_asynchronous_run_on_vllm_accounts_for_all_and_leaves_a_model_that_loads(write_recipe: WriteRecipe) -> None:
    recipe = write_recipe(
        rollout={"engine": "vllm", "max_staleness": 2, "max_response_tokens": 40},
        trainer={"steps": 4},
        topology={"learner": {"ranks": 2}},
        tracking={"tensorboard": True, "wandb": True},
    )
    done = run(recipe)
    summary = done.summary
    prompts = summary["prompts"]
    assert isinstance(prompts, dict)
    assert prompts["trained"] == 8
    assert prompts["dispatched"] == sum(prompts.values()) - prompts["dispatched"]
    assert prompts["pending"] == 0
    assert summary["status"] == "completed"
    assert summary["staleness"]["max"] <= 2  # type: ignore[index]
    # The drill's two versions, then one per step.
    assert summary["weight_sync"]["count"] == summary["weight_sync"]["attested"] == 6  # type: ignore[index]
    versions = [event["version"] for event in done.events("sync")]
    assert versions == [-1, 0, 1, 2, 3, 4]

    model = AutoModelForCausalLM.from_pretrained(done.path / "model")
    tokenizer = AutoTokenizer.from_pretrained(done.path / "model")
    assert model(**tokenizer("1 + 2", return_tensors="pt")).logits.isfinite().all()
    assert list((done.path / "tensorboard").iterdir())
    assert list((done.path / "wandb").glob("offline-run-*"))
    engine = Subject("vllm", done.path / "model", tied=True)
    try:
        with torch.no_grad():
            expected = model(torch.tensor([PROBE])).logits.log_softmax(-1)[0, :-1]
        found = engine.run(engine.engine.score(PROBE))
    finally:
        engine.close()
    assert torch.tensor(found).allclose(expected.gather(1, torch.tensor(PROBE[1:])[:, None])[:, 0], atol=1e-3)
    rows = [json.loads(line) for line in (done.path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(row["learner/grad_norm"] > 0 for row in rows)


def test_ctrl_c_stops_every_actor_and_leaves_a_summary(write_recipe: WriteRecipe, tmp_path: Path) -> None:
    process = start(write_recipe(trainer={"steps": 500}))
    folder = RunFolder(tmp_path / "run")
    wait_for(lambda: (folder.path / "metrics.jsonl").exists() and folder.events("trained"), process)
    family = descendants(process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert "Traceback" not in err
    assert folder.summary["status"] == "interrupted"
    prompts = folder.summary["prompts"]
    assert prompts["dispatched"] == sum(prompts.values()) - prompts["dispatched"]  # type: ignore[attr-defined, index]
    _, alive = psutil.wait_procs(family, timeout=20)
    assert [p.name() for p in alive if p.is_running()] == []


def test_an_engine_that_fails_attestation_does_not_serve(write_recipe: WriteRecipe, tmp_path: Path) -> None:
    # Nothing agrees to a billionth of a nat: every engine fails, so none may serve.
    recipe = write_recipe(rollout={"engine": "vllm"}, weight_sync={"tolerance_mean": 1e-12, "tolerance_max": 1e-12})
    done = paceline("train", str(recipe))
    assert done.code == 1
    assert "no engine holds version -1" in done.err
    assert done.err.strip().count("\n") == 0, "one line"
    summary = RunFolder(tmp_path / "run").summary
    assert summary["status"] == "failed"
    assert "probe logprobs differ" in str(summary["reason"])
    assert RunFolder(tmp_path / "run").events("dispatched") == []


def test_a_reward_that_raises_is_counted_and_shown_and_ends_nothing(write_recipe: WriteRecipe) -> None:
    recipe = write_recipe(
        reward={"terms": [{"name": "tests.end_to_end.own_rewards:raises"}], "fallback": 0.25},
        algorithm={"drop_zero_variance": False},
    )
    done = run(recipe)
    errors = done.events("reward_error")
    assert len(errors) == 2 * 2 * 4
    assert "no verdict on" in str(errors[0]["error"])
    assert done.summary["reward_last"] == 0.25


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_at_the_end_is_one_line_and_leaves_nothing_half_written(
    write_recipe: WriteRecipe, tmp_path: Path, checkpoint: Path
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(small)], check=False, timeout=10)
    if mounted.returncode != 0:
        pytest.skip("this system does not let root mount a tmpfs")
    try:
        # Room enough for the checkpoint at the start; something else fills the disk during the run.
        process = start(write_recipe(run_dir=str(small / "run"), trainer={"steps": 3}))
        folder = RunFolder(small / "run")
        wait_for(lambda: (folder.path / "metrics.jsonl").exists() and folder.events("trained"), process)
        weights = (checkpoint / "model.safetensors").stat().st_size
        (small / "ballast").write_bytes(b"x" * (shutil.disk_usage(small).free - weights // 2))
        out, err = process.communicate(timeout=120)
        assert process.returncode == 1, out + err
        assert "No space left" in err
        assert "Traceback" not in err
        assert not (small / "run" / "model").exists()
        assert folder.summary["status"] == "failed"
    finally:
        subprocess.run(["umount", str(small)], check=False, timeout=10)
