"""Whole runs under the dispatcher's policies, on real engines: accounts, bounds, and what streaming must not change."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.conftest import RunFolder, paceline, run
from tests.end_to_end.test_faults import assert_exact

pytestmark = pytest.mark.slow
WriteRecipe = Callable[..., Path]
STEPS, BATCH = 5, 4


@pytest.fixture
def lengths(tmp_path: Path) -> Path:
    """A long tail: half of the answers up to 8 tokens, the longest 120."""
    chance = random.Random(1)
    path = tmp_path / "lengths.txt"
    path.write_text("\n".join(str(min(120, 1 + int(chance.lognormvariate(2.0, 1.2)))) for _ in range(500)))
    return path


def policy_run(write_recipe: WriteRecipe, lengths: Path, *, stream: bool = False, **rollout: object) -> RunFolder:
    recipe = write_recipe(
        rollout={"max_response_tokens": 120, "max_running": 32, "replay_lengths": str(lengths), **rollout},
        trainer={"steps": STEPS, "prompts_per_step": BATCH, "stream": stream},
        data={"eval_size": 0},
    )
    return run(recipe)


def test_resumed_rounds_lose_no_prompt_and_continue_their_answers(write_recipe: WriteRecipe, lengths: Path) -> None:
    done = policy_run(write_recipe, lengths, max_staleness=1, over_sampling={"prompts": 1.5, "leftovers": "resume"})
    prompts = assert_exact(done)
    assert (prompts["trained"], prompts["dropped"], prompts["pending"]) == (STEPS * BATCH, 0, 0)
    suspended, resumed = done.events("suspended"), done.events("resumed")
    assert suspended, "a round that starts half as much again is cut"
    assert len(suspended) == len(resumed)
    assert any(len(event["legs"]) > 1 for event in done.events("sampled")), "an answer went on where it was"  # type: ignore[arg-type]
    assert done.summary["staleness"]["max"] <= 1  # type: ignore[index]


def test_long_rounds_stay_on_policy_and_lose_no_prompt(write_recipe: WriteRecipe, lengths: Path) -> None:
    over_sampling = {"prompts": 1.5, "answers": 1.5, "leftovers": "long_round"}
    done = policy_run(write_recipe, lengths, max_staleness=0, over_sampling=over_sampling)
    prompts = assert_exact(done)
    assert (prompts["trained"], prompts["dropped"], prompts["pending"]) == (STEPS * BATCH, 0, 0)
    assert done.events("resumed"), "a prompt that was cut is sampled afresh"
    assert done.summary["staleness"]["max"] == 0  # type: ignore[index]


def test_late_answers_count_in_the_baseline_alone_and_answers_survive_every_update(
    write_recipe: WriteRecipe, lengths: Path
) -> None:
    done = policy_run(write_recipe, lengths, max_staleness=1, late="baseline_only", kv_policy="abort_resume")
    prompts = assert_exact(done)
    assert (prompts["trained"], prompts["pending"]) == (STEPS * BATCH, 0)
    assert prompts["dropped"] == len(done.events("dropped"))
    assert done.summary["staleness"]["max"] <= 1  # type: ignore[index]
    rows = [json.loads(line) for line in (done.path / "metrics.jsonl").read_text().splitlines()]
    assert all({"late/answers", "late/masked", "length_bias/mean_ratio"} <= row.keys() for row in rows)


def test_streaming_trains_on_the_same_batch_with_the_same_gradient(
    write_recipe: WriteRecipe, lengths: Path, tmp_path: Path
) -> None:
    batches, first_steps = [], []
    for stream in (False, True):
        done = policy_run(write_recipe, lengths, max_staleness=0, stream=stream)
        batches.append([sorted(g["group"] for g in event["groups"]) for event in done.events("trained")])  # type: ignore[attr-defined]
        first_steps.append(json.loads((done.path / "metrics.jsonl").read_text().splitlines()[0]))
        if stream:
            assert max(len(event["parts"]) for event in done.events("trained")) > 2, "groups came in parts"  # type: ignore[arg-type]
        else:
            done.path.rename(tmp_path / "whole")
    whole, streamed = first_steps
    assert batches[0] == batches[1]
    for figure in ("loss", "grad_norm", "entropy", "trained_tokens"):
        assert streamed[f"learner/{figure}"] == pytest.approx(whole[f"learner/{figure}"], rel=1e-4, abs=1e-6)
    assert_tail_is_told(done)


def assert_tail_is_told(done: RunFolder) -> None:
    """`paceline report` and trace.json of a run."""
    told = paceline("report", str(done.path))
    assert told.code == 0, told.err
    assert "accelerator-seconds" in told.out
    assert "asynchronous, staleness 2" in told.out
    trace = json.loads((done.path / "trace.json").read_text())
    names = {event["args"]["name"] for event in trace["traceEvents"] if event["name"] == "process_name"}
    assert names == {"rollout-0", "learner", "rewards"}
    assert paceline("report", str(done.path.parent)).code == 2
