"""The order of stages: what each is told, what is skipped, and what the whole's summary says of stops and faults.

The stages themselves are stood in for here; tests/end_to_end/test_stages.py runs real ones.
"""

import json
from pathlib import Path

import pytest
import yaml

from orchestrator.errors import RunError, SettingError
from orchestrator.progress import Progress
from orchestrator.stages import run as stages_run
from orchestrator.stages.load import load_any
from orchestrator.stages.recipes import StagedRecipe, StageRecipe, models_of
from orchestrator.stages.run import check_all, run_stages
from orchestrator.storage.place import RunPlace

STAGES = [
    {"name": "sft", "kind": "sft", "examples": {"path": "shipped:chain_sums.jsonl", "template": "{question}\n"}},
    {"name": "dpo", "kind": "preference"},
    {"name": "opd", "kind": "distill", "model": "stage:sft", "algorithm": {"teacher": {"model": "stage:dpo"}}},
]


@pytest.fixture
def recipe(tmp_path: Path, tied_model: Path) -> StagedRecipe:
    tree = {
        "name": "mine",
        "model": str(tied_model),
        "run_dir": str(tmp_path / "run"),
        "data": {"tasks": [{"name": "chain_sum"}], "eval_size": 2},
        "rollout": {"max_prompt_tokens": 200, "max_response_tokens": 56},
        "reward": {"terms": [{"name": "reasoning_gym"}]},
        "trainer": {"steps": 3},
        "stages": STAGES,
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    loaded = load_any(str(path))
    assert isinstance(loaded, StagedRecipe)
    return loaded


def run_in_place(recipe: StagedRecipe) -> Path:
    assert recipe.run_dir is not None
    return run_stages(recipe, Progress("test"), RunPlace(Path(recipe.run_dir)))


class Stand:
    """Stands in for the run of one stage: notes what it was told and leaves a summary and a model."""

    def __init__(self) -> None:
        self.told: list[StageRecipe] = []
        self.broken_off: list[bool] = []
        self.ends: dict[str, str] = {}

    def __call__(self, stage: StageRecipe, progress: Progress, place: RunPlace, *, broken_off: bool) -> None:
        folder = place.folder
        self.told.append(stage)
        self.broken_off.append(broken_off)
        name = folder.name.partition("-")[2]
        status = self.ends.get(name, "completed")
        folder.mkdir(parents=True, exist_ok=broken_off)
        (folder / "summary.json").write_text(json.dumps({"status": status, "steps": 3, "loss_first": 2.0}))
        if status == "completed":
            (folder / "model").mkdir()
        if status == "failed":
            raise RunError(f"{name} broke", "mend it")

    @property
    def names(self) -> list[str]:
        return [stage.name for stage in self.told]


@pytest.fixture
def stand(monkeypatch: pytest.MonkeyPatch) -> Stand:
    made = Stand()
    monkeypatch.setattr(stages_run, "_run_one", made)
    monkeypatch.setattr(stages_run, "check_all", lambda recipe, progress: None)
    return made


def summary(recipe: StagedRecipe) -> dict[str, object]:
    assert recipe.run_dir is not None
    return json.loads((Path(recipe.run_dir) / "summary.json").read_text())


def statuses(recipe: StagedRecipe) -> list[object]:
    stages = summary(recipe)["stages"]
    assert isinstance(stages, list)
    return [stage["status"] for stage in stages]


def test_each_stage_is_told_where_it_runs_and_what_was_handed_over(
    recipe: StagedRecipe, stand: Stand, tied_model: Path
) -> None:
    folder = run_in_place(recipe)
    assert stand.names == ["mine-sft", "mine-dpo", "mine-opd"]
    assert [stage.run_dir for stage in stand.told] == [
        str(folder / "stages" / name) for name in ("1-sft", "2-dpo", "3-opd")
    ]
    assert [models_of(stage) for stage in stand.told] == [
        {"model": str(tied_model)},
        {"model": str(folder / "stages" / "1-sft" / "model")},
        {
            "model": str(folder / "stages" / "1-sft" / "model"),
            "algorithm.teacher.model": str(folder / "stages" / "2-dpo" / "model"),
        },
    ]
    assert statuses(recipe) == ["completed"] * 3
    assert (summary(recipe)["status"], summary(recipe)["steps"]) == ("completed", 9)
    assert (folder / "model").resolve() == folder / "stages" / "3-opd" / "model"


def test_a_stage_that_stops_ends_the_run_and_is_where_it_goes_on(recipe: StagedRecipe, stand: Stand) -> None:
    stand.ends = {"dpo": "interrupted"}
    folder = run_in_place(recipe)
    assert stand.names == ["mine-sft", "mine-dpo"]
    assert summary(recipe)["status"] == "interrupted"
    assert "dpo" in str(summary(recipe)["reason"])
    assert statuses(recipe) == ["completed", "interrupted", "not begun"]
    assert (folder / "model").resolve().parent.name == "1-sft"

    stand.ends, stand.told = {}, []
    run_in_place(recipe)
    assert stand.names == ["mine-dpo", "mine-opd"]
    assert (folder / "stages" / "2-dpo.attempt-1").is_dir()
    assert statuses(recipe) == ["completed"] * 3

    stand.told = []
    run_in_place(recipe)
    assert stand.told == []
    assert summary(recipe)["status"] == "completed"


def test_a_stage_that_left_a_checkpoint_goes_on_from_it(recipe: StagedRecipe, stand: Stand) -> None:
    stand.ends = {"dpo": "failed"}
    with pytest.raises(RunError):
        run_in_place(recipe)
    assert recipe.run_dir is not None
    card = Path(recipe.run_dir) / "stages" / "2-dpo" / "checkpoints" / "step-000002" / "run.json"
    card.parent.mkdir(parents=True)
    card.touch()
    stand.ends, stand.told, stand.broken_off = {}, [], []
    run_in_place(recipe)
    assert list(zip(stand.names, stand.broken_off, strict=True)) == [("mine-dpo", True), ("mine-opd", False)]
    assert not list(card.parents[2].parent.glob("*.attempt-*"))


def test_a_stage_that_breaks_breaks_the_run_by_name(recipe: StagedRecipe, stand: Stand) -> None:
    stand.ends = {"dpo": "failed"}
    with pytest.raises(RunError, match="dpo broke"):
        run_in_place(recipe)
    assert summary(recipe)["status"] == "failed"
    assert summary(recipe)["reason"] == "dpo broke; mend it"
    assert statuses(recipe) == ["completed", "failed", "not begun"]


def test_what_is_sound_passes_the_check(recipe: StagedRecipe) -> None:
    check_all(recipe, Progress("test"))


@pytest.mark.parametrize(
    ("change", "setting", "says"),
    [
        ("stages.dpo.data.path=nowhere.jsonl", "stages.dpo.data.path", "does not exist"),
        ("stages.sft.examples.path=nowhere.jsonl", "stages.sft.examples.path", "No such file"),
        ("stages.opd.algorithm.teacher.model=./none", "stages.opd.algorithm.teacher.model", "is not a folder"),
        ("stages.dpo.trainer.optimizer_from=nowhere", "stages.dpo.trainer.optimizer_from", "holds no optimizer"),
        ("stages.sft.trainer.optimizer_from=nowhere", "stages.sft.trainer.optimizer_from", "holds no optimizer"),
        ("stages.opd.model=./none", "stages.opd.model", "is not a folder"),
        ("stages.opd.rollout.max_response_tokens=4000", "stages.opd.rollout.max_response_tokens", "context of 512"),
        ("stages.dpo.rollout.max_prompt_tokens=3", "stages.dpo.rollout.max_prompt_tokens", "allowed are 3"),
    ],
)
@pytest.mark.usefixtures("recipe")
def test_what_no_machine_could_run_is_found_before_the_first_stage(
    tmp_path: Path, change: str, setting: str, says: str
) -> None:
    loaded = load_any(str(tmp_path / "recipe.yaml"), [change])
    assert isinstance(loaded, StagedRecipe)
    with pytest.raises(SettingError) as caught:
        run_in_place(loaded)
    assert caught.value.setting == setting
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
