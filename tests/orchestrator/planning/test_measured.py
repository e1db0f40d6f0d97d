"""The plan against what processes really take: each role runs, and its memory is within 15% of what was foreseen."""

from pathlib import Path

import pytest

from orchestrator.planning.memory import MIB
from orchestrator.recipe import load_recipe
from tests.benchmarks.role_memory import CASES, foreseen, measure, write_recipe

WITHIN = 0.15
CHECKED = (
    "learner",
    "learner, two ranks, checkpointing",
    "learner, LoRA",
    "learner, critic",
    "torch engine",
    "vLLM engine",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("measured")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", CHECKED)
def test_a_role_takes_what_was_foreseen(name: str, folder: Path) -> None:
    role, sections = CASES[name]
    file = write_recipe(folder, **sections)
    recipe = load_recipe(str(file))
    plan = foreseen(role, recipe)
    found = measure(role, file, recipe.topology.learner.ranks)
    stages = {stage: f"{size / MIB:,.0f} MiB" for stage, size in found.stages.items()}
    assert plan == pytest.approx(found.peak, rel=WITHIN), f"foreseen {plan / MIB:,.0f} MiB, took {stages}"
    # The weights are far larger than the interpreter, or this would say nothing.
    assert found.peak > 1.5 * found.base
