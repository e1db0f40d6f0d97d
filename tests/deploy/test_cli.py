"""The `paceline` command: all commands in one, at once."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deploy.cli import app, main
from orchestrator.cli import app as runs

ROOT = Path(__file__).parents[2]


def test_the_command_has_those_of_a_run_and_those_of_deployment() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["scripts"] == {"paceline": "deploy.cli:main"}
    shown = CliRunner().invoke(app, ["--help"]).output
    names = [command.name or command.callback.__name__ for command in runs.registered_commands if command.callback]
    assert "train" in names
    for name in [*names, "render"]:
        assert f" {name.replace('_', '-')} " in shown


def test_an_error_is_one_line_and_an_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["paceline", "render", "quickstart"])
    with pytest.raises(SystemExit) as left:
        main()
    said = capsys.readouterr().err
    assert (left.value.code, len(said.splitlines())) == (2, 1)
    assert said.startswith("paceline: device: ")


def test_nothing_heavy_is_loaded_before_a_command_is_called() -> None:
    program = "import sys, deploy.cli; sys.exit(bool({'ray', 'torch', 'transformers'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", program], timeout=60, cwd=ROOT, check=False).returncode == 0
