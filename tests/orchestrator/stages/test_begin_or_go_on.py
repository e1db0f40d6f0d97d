"""The same command again and again, until the run is complete: it begins, goes on, and never overwrites."""

import fcntl
from pathlib import Path

import pytest

from orchestrator.config import Recipe
from orchestrator.errors import SettingError
from orchestrator.progress import Progress
from orchestrator.recipe import load_recipe
from orchestrator.stages import resume
from orchestrator.stages.resume import begin_or_go_on


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was begun, and whether anything lay in its folder."""
    names: list[str] = []

    def begin(recipe: Recipe, progress: Progress) -> Path:
        assert recipe.run_dir is not None
        names.append(f"{recipe.name}, {'taken' if Path(recipe.run_dir).exists() else 'free'}")
        return Path(recipe.run_dir)

    monkeypatch.setattr(resume, "run_any", begin)
    return names


def again(folder: Path | None) -> Path:
    override = [] if folder is None else [f"run_dir={folder}"]
    return begin_or_go_on(load_recipe("quickstart", override), Progress("test"))


def test_a_run_begins_where_none_is(tmp_path: Path, begun: list[str]) -> None:
    assert again(tmp_path / "run") == tmp_path / "run"
    assert begun == ["quickstart, free"]


def test_what_left_no_checkpoint_is_moved_aside_each_time(tmp_path: Path, begun: list[str]) -> None:
    for attempt in ("1", "2"):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "events.jsonl").write_text(attempt)
        again(tmp_path / "run")
    assert begun == ["quickstart, free"] * 2
    assert [(tmp_path / f"run.attempt-{n}" / "events.jsonl").read_text() for n in "12"] == ["1", "2"]


def test_a_run_at_work_is_left_alone(tmp_path: Path, begun: list[str]) -> None:
    (tmp_path / "run").mkdir()
    with (tmp_path / "run" / "events.jsonl").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(SettingError, match=r"run_dir: .* is at work in another process"):
            again(tmp_path / "run")
    assert begun == []
    assert (tmp_path / "run").is_dir()


def test_a_checkpoint_that_cannot_be_read_does_not_begin_anew(tmp_path: Path, begun: list[str]) -> None:
    card = tmp_path / "run" / "checkpoints" / "step-000002" / "run.json"
    card.parent.mkdir(parents=True)
    card.write_text("{}")
    with pytest.raises(SettingError, match="cannot be read"):
        again(tmp_path / "run")
    assert begun == []


def test_it_must_be_said_where(begun: list[str]) -> None:
    with pytest.raises(SettingError, match="run_dir: is missing"):
        again(None)
    assert begun == []


def test_a_run_that_is_complete_is_not_made_again_from_an_older_checkpoint(tmp_path: Path, begun: list[str]) -> None:
    (tmp_path / "run" / "checkpoints" / "step-000002").mkdir(parents=True)
    (tmp_path / "run" / "summary.json").write_text('{"status": "completed", "steps": 50}')
    with pytest.raises(SettingError, match="all of its 50 steps are made"):
        again(tmp_path / "run")
    assert begun == []
