"""A run directory is made once, and a summary is there whole or not at all."""

import json
from pathlib import Path

import pytest

from orchestrator.errors import SettingError
from orchestrator.run_directory import RunDirectory


def test_a_folder_that_exists_is_never_overwritten(tmp_path: Path) -> None:
    RunDirectory(tmp_path / "run", "name: x\n").close()
    before = (tmp_path / "run" / "config.yaml").read_text()
    with pytest.raises(SettingError, match="never overwritten"):
        RunDirectory(tmp_path / "run", "name: y\n")
    assert (tmp_path / "run" / "config.yaml").read_text() == before


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingError, match=r"run_dir: .*Not a directory"):
        RunDirectory(tmp_path / "file" / "run", "")


def test_lines_are_readable_while_the_run_goes_on(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "run", "name: x\n")
    directory.metrics({"step": 1, "reward": 0.5})
    directory.event({"event": "dispatched", "group": 0})
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text()) == {"step": 1, "reward": 0.5}
    assert json.loads((tmp_path / "run" / "events.jsonl").read_text())["event"] == "dispatched"


def test_the_summary_replaces_the_one_before_and_leaves_no_draft(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "run", "name: x\n")
    directory.summary({"status": "failed"})
    directory.summary({"status": "completed"})
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == {"status": "completed"}
    assert [path.name for path in (tmp_path / "run").glob(".*")] == []
