"""Whole plans: every shipped recipe, one that does not fit and what it is told, and the command line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from transformers import GptOssConfig
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.config import Recipe
from orchestrator.errors import SettingError
from orchestrator.planning.advice import advise, changed
from orchestrator.planning.command import plan_any
from orchestrator.planning.configs import Configs
from orchestrator.planning.hardware import called, measure_cores
from orchestrator.planning.machine import Machine, described, of_nodes
from orchestrator.planning.memory import GIB
from orchestrator.planning.plan import Setting, plan_stage
from orchestrator.planning.render import as_json, print_plan
from orchestrator.recipe import shipped_recipes
from orchestrator.stages.load import load_any
from tests.orchestrator.planning.models import QWEN3_0_6B, QWEN3_8B, QWEN3_30B_A3B, gpus, recipe, setting

LONG = {"max_prompt_tokens": 1024, "max_response_tokens": 15_360, "group_size": 16}


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
@pytest.mark.parametrize("where", ["cores", "gpus"])
def test_every_shipped_recipe_has_a_plan(name: str, where: str) -> None:
    machine = gpus(4) if where == "gpus" else Machine("cores", 0, None, 64 * GIB, 16)
    configs = Configs()
    configs.know("Qwen/Qwen3-0.6B", QWEN3_0_6B)
    console = Console(record=True, width=160)
    made = load_any(name)
    for plan, advice in plan_any(made, Setting(machine, configs), configs):
        print_plan(plan, advice, console)
        assert plan.fits, plan.faults
        json.dumps(as_json(plan, advice))
    shown = console.export_text()
    assert "learner rank" in shown
    assert "driver, Ray" in shown
    assert ("parameters, on GPUs" if where == "gpus" else "parameters, on CPUs") in shown


def test_what_does_not_fit_is_told_what_to_change() -> None:
    made = recipe(rollout=LONG, trainer={"token_budget": 16_384}, topology={"learner": {"ranks": 4}})
    around = setting(gpus(8), QWEN3_8B)
    plan = plan_stage(made, around)
    assert not plan.fits
    assert "learner rank" in str(plan.faults[0])
    assert "activations" in str(plan.faults[0])
    advice = advise(plan, around)
    first = advice[0]
    assert first.enough
    assert first.change.text == "trainer.activation_checkpointing=true"
    # The advice is true: with it the stage fits, and the learner needs less by what was said.
    again = plan_stage(changed(made, first.change.changes), around)
    assert again.fits
    need = {
        name: next(role.need.total for role in p.roles if role.label == "learner rank")
        for name, p in (("before", plan), ("after", again))
    }
    assert need["before"] - need["after"] == first.saved
    assert not advise(again, around)


def test_ranks_are_advised_where_nothing_else_is_enough() -> None:
    made = recipe(rollout=LONG, trainer={"token_budget": 16_384, "activation_checkpointing": True})
    around = setting(gpus(8, "a100-40"), QWEN3_8B)
    plan = plan_stage(made, around)
    texts = [advice.change.text for advice in advise(plan, around)]
    assert any("topology.learner.ranks" in text for text in texts), texts


def test_an_engine_without_room_for_an_answer_is_at_fault() -> None:
    made = recipe(rollout={**LONG, "gpu_memory_utilization": 0.5}, trainer={"token_budget": 16_384})
    plan = plan_stage(made, setting(gpus(2, "a10"), QWEN3_8B))
    assert any(fault.setting == "topology.rollout.tensor_parallel" for fault in plan.faults)


def test_main_memory_counts_every_process_on_cores() -> None:
    made = recipe(topology={"rollout": {"workers": 3}})
    plan = plan_stage(made, setting(Machine("small", 0, None, 4 * GIB, 2), QWEN3_0_6B))
    assert plan.main_memory == sum(role.need.total * role.count for role in plan.roles)
    assert plan.placement.device == "cpu"
    assert any(fault.setting == "main memory" for fault in plan.faults)


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({"rollout": {"max_response_tokens": 50_000}, "trainer": {"token_budget": 60_000}}, "max_response_tokens"),
        ({"topology": {"rollout": {"tensor_parallel": 3}}}, "tensor_parallel"),
        ({"topology": {"learner": {"ranks": 3, "sequence_parallel": 3}}}, "sequence_parallel"),
        ({"trainer": {"lora": {"target_modules": ["c_attn"]}}}, "target_modules"),
        ({"topology": {"rollout": {"workers": 9}}}, "topology.rollout.workers"),
    ],
)
def test_what_the_model_or_the_machine_cannot_take_is_a_fault(sections: dict[str, object], named: str) -> None:
    plan = plan_stage(recipe(**sections), setting(gpus(8), QWEN3_0_6B))
    assert any(named in fault.setting for fault in plan.faults), plan.faults


def test_a_model_with_a_judge_a_drafter_and_a_reference_has_a_line_for_each() -> None:
    made = recipe(
        reward={"terms": [{"name": "reasoning_gym"}], "models": {"judge": {"model": "model"}}},
        speculation={"drafter": "eagle"},
        algorithm={"terms": [{"name": "kl_k3", "weight": 0.1}]},
    )
    plan = plan_stage(made, setting(gpus(4), QWEN3_8B))
    labels = {role.label: role for role in plan.roles}
    assert {"judge judge", "drafter's trainer"} <= labels.keys()
    learner = labels["learner rank"].need
    assert learner.stays["reference: weights"] == 4 * 8_190_735_360
    # One EAGLE layer and its projection, as `learners.drafters.kinds.eagle` makes them, in 16 bytes a number.
    width, inner = 4096, 12_288
    elements = 2 * width * width + 2 * width * width + 2 * width * 1024 + 3 * width * inner + width
    assert labels["drafter's trainer"].need.stays["weights and optimizer"] == 16 * elements


def test_experts_are_followed_and_what_cannot_be_is_said() -> None:
    plan = plan_stage(recipe(), setting(gpus(16), QWEN3_30B_A3B))
    assert any(role.label == "learner rank" for role in plan.roles)
    sinks = GptOssConfig(
        vocab_size=1000,
        hidden_size=256,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        num_local_experts=4,
        num_experts_per_tok=2,
    )
    plan = plan_stage(recipe(), setting(gpus(16), sinks))
    assert not any(role.name == "learner" for role in plan.roles)
    assert any("not foreseen" in note and "GptOss" in note for note in plan.notes)


def test_machines_are_described_or_asked() -> None:
    assert described(8, 80, None).accelerators == 8
    assert described(2, 141, None).hardware == described(2, None, "h200").hardware
    assert called("NVIDIA H100 80GB HBM3") == described(1, None, "h100").hardware
    assert called("NVIDIA A100-SXM4-40GB") == described(1, None, "a100-40").hardware
    with pytest.raises(SettingError, match="--gpu-memory"):
        described(8, None, None)
    with pytest.raises(SettingError, match="known are"):
        described(8, 80, "h999")
    nodes = [{"GPU": 8.0, "CPU": 64.0, "memory": 5e11, "accelerator_type:H100": 1.0}, {"CPU": 8.0, "memory": 3e10}]
    found = of_nodes("auto", nodes)
    assert (found.accelerators, found.cores, found.nodes) == (8, 72, 2)
    assert found.hardware == called("H100")


def test_cores_are_measured_in_a_second() -> None:
    found = measure_cores(1, GIB)
    assert 1e8 < found.single < 1e13
    assert 1e8 < found.bandwidth < 1e12


def test_the_command_fails_where_the_recipe_does_not_fit(tmp_path: Path) -> None:
    QWEN3_8B.save_pretrained(tmp_path / "model")
    model = f"model={tmp_path / 'model'}"
    bad = CliRunner().invoke(app, ["plan", "quickstart", model, "--gpus", "2", "--accelerator", "a10", "--json"])
    assert bad.exit_code == 1
    found = json.loads(bad.stdout)
    assert not found["fits"]
    assert found["stages"][0]["parameters"] == 8_190_735_360
    good = CliRunner().invoke(app, ["plan", "quickstart", "--gpus", "2", "--gpu-memory", "80"])
    assert good.exit_code == 0, good.output
    assert "fits" in good.stdout


def test_planning_starts_neither_ray_nor_vllm() -> None:
    check = (
        "import sys; from orchestrator.planning.command import Asked, print_plans\n"
        "from orchestrator.stages.load import load_any; from rich.console import Console\n"
        "assert print_plans(load_any('quickstart'), Asked(2, 80.0), as_data=False, console=Console())\n"
        "assert not {'ray', 'vllm', 'datasets', 'reasoning_gym'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_a_stage_begins_with_what_another_makes() -> None:
    plans = plan_any(load_any("stages"), Setting(gpus(2), configs := Configs()), configs)
    assert [plan.stage for plan, _ in plans] == ["sft", "dpo", "grpo"]
    assert len({plan.shape.parameters for plan, _ in plans}) == 1
    assert plans[0][0].expectation is None
    assert isinstance(plans[1][0].recipe, Recipe)
