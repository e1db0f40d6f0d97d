"""docs/extending.md does what it says: its code is taken from the page and run."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from learners.learner import Learner
from learners.settings import AlgorithmSettings, TrainerSettings
from orchestrator.cli import app
from orchestrator.errors import SettingError
from tests.learners.ranks import CPU, single_rank
from tests.learners.tiny import random_batch, write_model

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"
BLOCK = re.compile(r"```python\n# (?P<file>\w+\.py)\n(?P<code>.*?)```", re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With the page's files, on the Python path."""
    for block in BLOCK.finditer(PAGE.read_text(encoding="utf-8")):
        (tmp_path / block["file"]).write_text(block["code"], encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_the_pages_loss_has_twenty_lines_and_passes_the_pages_test(folder: Path) -> None:
    code = (folder / "my_loss.py").read_text(encoding="utf-8").strip().splitlines()
    assert len(code) <= 20
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_my_loss.py"],
        cwd=folder,
        env={"PYTHONPATH": f"{folder}:{PAGE.parents[1]}", "PATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "1 passed" in ran.stdout


def test_the_learner_trains_with_it(folder: Path) -> None:
    algorithm = AlgorithmSettings(surrogate="my_loss:cautious", surrogate_options={"trust": 1.0})
    with single_rank():
        model = write_model(folder / "model")
        trainer = TrainerSettings(dtype="float32")
        learner = Learner(model, algorithm, trainer, temperature=1.0, rank=0, world_size=1, device=CPU)
        assert learner.step(random_batch())["grad_norm"] > 0


@pytest.mark.usefixtures("folder")
def test_the_pages_command_is_a_recipe_that_can_run() -> None:
    settings = ["algorithm.surrogate=my_loss:cautious", "algorithm.surrogate_options.trust=1"]
    done = CliRunner().invoke(app, ["train", "quickstart", *settings, "--dry-run"])
    assert done.exit_code == 0, done.output
    assert "surrogate: my_loss:cautious" in done.output


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["algorithm.surrogate=my_loss:bold"], "cannot be imported"),
        (["algorithm.surrogate=no_such_module:cautious"], "No module named"),
        (["algorithm.surrogate=my_loss:cautious", "algorithm.surrogate_options.trust=-1"], "must be above 0"),
        (["algorithm.surrogate=my_loss:cautious", "algorithm.surrogate_options.trusd=1"], "did you mean trust?"),
    ],
)
def test_its_faults_are_named_before_anything_starts(settings: list[str], says: str) -> None:
    done = CliRunner().invoke(app, ["train", "quickstart", *settings, "--dry-run"])
    assert isinstance(done.exception, SettingError)
    assert says in str(done.exception)
