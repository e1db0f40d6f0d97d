"""A run directory is made once, and a summary is there whole or not at all."""

import json
from pathlib import Path

import pytest

from orchestrator.errors import SettingError
from orchestrator.run_directory import LogMarks, RunDirectory


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


def test_a_run_that_goes_on_takes_off_what_its_logs_hold_beyond_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "run"
    directory = RunDirectory(path, "steps: 2\n")
    directory.metrics({"step": 1, "note": "naïve"})
    directory.event({"event": "dispatched", "group": 0})
    marks = directory.marks()
    directory.metrics({"step": 2})
    directory.event({"event": "dispatched", "group": 1})
    directory.close()
    again = RunDirectory(path, "steps: 4\n", since=marks)
    again.metrics({"step": 2, "note": "again"})
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert rows == [{"step": 1, "note": "naïve"}, {"step": 2, "note": "again"}]
    assert [json.loads(line)["group"] for line in (path / "events.jsonl").read_text().splitlines()] == [0]
    assert (path / "config.yaml").read_text() == "steps: 4\n"


def test_a_log_that_lacks_what_the_checkpoint_knows_is_refused_untouched(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "run", "name: x\n")
    directory.metrics({"step": 1})
    directory.close()
    with pytest.raises(SettingError, match=r"metrics.jsonl is shorter than its checkpoint says"):
        RunDirectory(tmp_path / "run", "name: y\n", since=LogMarks(1000, 0))
    assert (tmp_path / "run" / "config.yaml").read_text() == "name: x\n"


def test_two_processes_do_not_write_in_one_run(tmp_path: Path) -> None:
    first = RunDirectory(tmp_path / "run", "name: x\n")
    with pytest.raises(SettingError, match="at work in another process"):
        RunDirectory(tmp_path / "run", "name: x\n", since=first.marks())
    first.close()
    RunDirectory(tmp_path / "run", "name: x\n", since=LogMarks(0, 0)).close()


def test_only_a_run_that_never_began_is_discarded(tmp_path: Path) -> None:
    first = RunDirectory(tmp_path / "run", "name: x\n")
    first.metrics({"step": 1})
    marks = first.marks()
    first.close()
    RunDirectory(tmp_path / "run", "name: x\n", since=marks).discard()
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text()) == {"step": 1}
    RunDirectory(tmp_path / "other", "name: x\n").discard()
    assert not (tmp_path / "other").exists()
