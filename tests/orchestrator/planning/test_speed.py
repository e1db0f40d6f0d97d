"""How fast a recipe may be: what must hold of the roofline, and what a recorded run puts in its place."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config import Recipe
from orchestrator.errors import SettingError
from orchestrator.planning.calibration import calibrate
from orchestrator.planning.configs import Configs
from orchestrator.planning.hardware import PUBLISHED
from orchestrator.planning.model_shape import shape_of
from orchestrator.planning.plan import plan_stage
from orchestrator.planning.speed import (
    BANDWIDTH_SHARE,
    Work,
    balance,
    decode_step_s,
    learner_step_s,
)
from orchestrator.recipe import dump_recipe
from tests.orchestrator.event_builders import KnownModel, log_normal_lengths, synchronous_run
from tests.orchestrator.planning.models import QWEN3_0_6B, QWEN3_8B, gpus, planned, recipe, setting

SHAPE = shape_of(planned(QWEN3_8B))
H100 = PUBLISHED["h100"]
WORK = Work(
    answers=512,
    prompt=256,
    answer=2048,
    running=64,
    engines=4,
    tensor_parallel=1,
    ranks=4,
    number=2,
    trains=2,
    draws_ahead=True,
    checkpointing=False,
)


def test_one_answer_reads_the_weights_once_a_token() -> None:
    """At one running answer a step is the time to read all that is multiplied, 15.1 GB of weights."""
    alone = replace(WORK, running=1.0, prompt=0.0, answer=2.0)
    read = (2 * SHAPE.active + 2 * SHAPE.kv_numbers) / (H100.bandwidth * BANDWIDTH_SHARE)
    assert decode_step_s(SHAPE, alone, H100, 0.0) == pytest.approx(read)


def test_training_is_six_operations_a_parameter_and_token_beside_attention() -> None:
    short = replace(WORK, prompt=0.0, answer=1.0, answers=1)
    whole = learner_step_s(SHAPE, short, replace(H100, half=1.0)) * 0.35 * WORK.ranks
    assert whole == pytest.approx(6 * SHAPE.active, rel=1e-3)
    again = learner_step_s(SHAPE, replace(short, checkpointing=True), H100)
    assert again == pytest.approx(4 / 3 * learner_step_s(SHAPE, short, H100))


@given(running=st.floats(1, 512), more=st.floats(1, 512), ranks=st.integers(1, 64), engines=st.integers(1, 64))
def test_more_of_anything_is_never_slower(running: float, more: float, ranks: int, engines: int) -> None:
    work = replace(WORK, running=running, ranks=ranks, engines=engines)
    wider = replace(work, running=running + more)
    assert decode_step_s(SHAPE, wider, H100, 0.003) >= decode_step_s(SHAPE, work, H100, 0.003)
    rate = [w.running / decode_step_s(SHAPE, w, H100, 0.003) for w in (work, wider)]
    assert rate[1] >= rate[0] * (1 - 1e-9)
    found = balance(SHAPE, work, H100, H100, step_s=0.003, sync_bytes_per_s=2e10)
    assert found.step_s >= max(found.rollout_s, found.learner_s)
    assert 0 <= found.rollout_waits < 1
    assert 0 <= found.learner_waits < 1
    turns = balance(SHAPE, replace(work, draws_ahead=False), H100, H100, step_s=0.003, sync_bytes_per_s=2e10)
    assert turns.step_s > found.step_s


def test_who_waits_is_said_where_it_is_clear() -> None:
    few = balance(SHAPE, replace(WORK, engines=1), H100, H100, step_s=0.003, sync_bytes_per_s=2e10)
    many = balance(SHAPE, replace(WORK, engines=64), H100, H100, step_s=0.003, sync_bytes_per_s=2e10)
    assert few.waits == "learner"
    assert many.waits == "rollout"


def test_a_recorded_run_takes_the_place_of_rates(tmp_path: Path) -> None:
    """The run was made from known times, which the plan of the same recipe must give back."""
    model = KnownModel(base_s=0.02, per_answer_s=0.0005, step_s=1.5)
    made = recipe(
        rollout={"group_size": 4, "max_staleness": 0, "max_running": 64},
        trainer={"prompts_per_step": 4},
    )
    assert isinstance(made, Recipe)
    rows = synchronous_run(log_normal_lengths(96, seed=1), batch=4, group_size=4, engines=1, model=model)
    (tmp_path / "config.yaml").write_text(dump_recipe(made))
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    around = setting(gpus(4), QWEN3_0_6B)
    recorded = calibrate(tmp_path, around.machine, around.model_of, None)
    lengths = [leg[3] for row in rows if row["event"] == "sampled" for leg in row["legs"]]  # type: ignore[attr-defined]
    assert recorded.answer_tokens == pytest.approx(sum(lengths) / len(lengths))

    known = replace(around, calibration=recorded.calibration, answer_tokens=recorded.answer_tokens)
    found = plan_stage(made, known).expectation
    assert found is not None
    assert found.calibrated_by == str(tmp_path)
    assert found.balance.learner_s == pytest.approx(model.step_s, rel=1e-6)
    step = found.work.running * found.work.engines / found.balance.decode_tokens_per_s
    assert step == pytest.approx(model.base_s + found.work.running * model.per_answer_s, rel=1e-3)
    assert found.balance.uncertain < 2


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="holds no run"):
        calibrate(tmp_path, gpus(2), Configs(), None)
