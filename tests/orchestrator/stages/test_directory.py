"""The folder of a run of stages: who may go on in it, what counts as finished, and what is moved aside."""

import json
from pathlib import Path

import pytest

from orchestrator.errors import SettingError
from orchestrator.stages.directory import StagesDirectory

CONFIG = "name: mine\nrun_dir: null\nstages:\n- {name: sft, trainer: {steps: 3}}\n- {name: rl}\n"


@pytest.fixture
def directory(tmp_path: Path) -> StagesDirectory:
    return StagesDirectory(tmp_path / "run", CONFIG)


def run_stage(directory: StagesDirectory, number: int, name: str, status: str, *, model: bool = True) -> Path:
    folder = directory.stage(number, name)
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps({"status": status}))
    if model:
        directory.model(number, name).mkdir()
    return folder


def test_a_stage_is_finished_when_its_summary_says_so_and_its_model_is_there(directory: StagesDirectory) -> None:
    assert not directory.finished(1, "sft")
    run_stage(directory, 1, "sft", "completed")
    run_stage(directory, 2, "rl", "interrupted")
    run_stage(directory, 3, "more", "completed", model=False)
    assert [directory.finished(*stage) for stage in ((1, "sft"), (2, "rl"), (3, "more"))] == [True, False, False]


def test_what_an_unfinished_stage_left_is_moved_aside(directory: StagesDirectory) -> None:
    assert directory.clear(2, "rl") is None
    for attempt in (1, 2):
        run_stage(directory, 2, "rl", "failed")
        aside = directory.clear(2, "rl")
        assert aside is not None
        assert aside.name == f"2-rl.attempt-{attempt}"
        assert (aside / "summary.json").is_file()
    assert not directory.stage(2, "rl").exists()


def test_the_same_recipe_goes_on_wherever_it_was_told_to_run(directory: StagesDirectory) -> None:
    again = StagesDirectory(directory.path, CONFIG.replace("run_dir: null", "run_dir: elsewhere"))
    assert again.path == directory.path


def test_another_recipe_is_refused_by_the_setting_that_differs(directory: StagesDirectory) -> None:
    with pytest.raises(SettingError, match=r"stages\.sft\.trainer\.steps was 3 and is 4") as caught:
        StagesDirectory(directory.path, CONFIG.replace("steps: 3", "steps: 4"))
    assert caught.value.setting == "run_dir"


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(SettingError, match="holds no run of stages"):
        StagesDirectory(tmp_path, CONFIG)
    assert [entry.name for entry in tmp_path.iterdir()] == ["notes.txt"]


def test_model_follows_the_last_stage(directory: StagesDirectory) -> None:
    for number, name in ((1, "sft"), (2, "rl")):
        run_stage(directory, number, name, "completed")
        (directory.model(number, name) / "who").write_text(name)
        directory.show_model(number, name)
        assert (directory.path / "model" / "who").read_text() == name
