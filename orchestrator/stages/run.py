"""A run of several stages: each a run of its own, one after another, the model of one the beginning of the next.

All stages are checked before the first begins: what cannot work in the third costs a line and no hours. A run that is
started again in its folder goes on in the first stage that is not complete, from its last checkpoint.
"""

import time
from pathlib import Path

from orchestrator.checkpoints import has_checkpoint
from orchestrator.config import Recipe
from orchestrator.errors import PacelineError, SettingError
from orchestrator.preflight import find_model, prepare
from orchestrator.progress import Progress
from orchestrator.resume import find_resumption
from orchestrator.run import run_recipe
from orchestrator.run_layout import CHECKPOINTS, OPTIMIZER
from orchestrator.stages.directory import StagesDirectory, status_of, summary_of
from orchestrator.stages.load import dump_any
from orchestrator.stages.recipes import (
    HANDED,
    AnyRecipe,
    StagedRecipe,
    StageRecipe,
    models_of,
    with_models,
    with_optimizer,
)
from orchestrator.stages.supervised_resume import find_supervised_resumption
from orchestrator.stages.supervised_run import prepare_examples, run_supervised
from orchestrator.storage.place import RunPlace, new_place
from orchestrator.summary import Status

SUMMED_UP = ("steps", "wall_s", "eval", "reward_first", "reward_last", "loss_first", "loss_last", "tokens_trained")
"""Of a stage's summary, what the whole's repeats."""


def run_any(recipe: AnyRecipe, progress: Progress) -> Path:
    """Run a recipe of whatever kind; see `run_recipe`, `run_supervised` and `run_stages` for what each raises.

    Returns: the run directory; its summary.json says how the run ended (`completed` or `interrupted`).
    """
    with new_place(recipe.run_dir, recipe.name, recipe.storage, progress) as place:
        if isinstance(recipe, StagedRecipe):
            return run_stages(recipe, progress, place)
        if isinstance(recipe, Recipe):
            return run_recipe(recipe, progress, place)
        return run_supervised(recipe, progress, place)


def run_stages(recipe: StagedRecipe, progress: Progress, place: RunPlace) -> Path:
    """Check all stages, then run those that are not complete.

    Raises:
        SettingError: a stage's input cannot work; nothing was written but for what earlier stages left.
        RunError: a stage had to stop; the summary says which and why.
    """
    check_all(recipe, progress)
    directory = StagesDirectory(place.folder, dump_any(recipe))
    started = time.perf_counter()
    status: Status = "failed"
    reason: str | None = None
    try:
        for number, stage in enumerate(recipe.stages, start=1):
            if directory.finished(number, stage.name):
                progress.say(f"stage {number} {stage.name}: complete already")
            elif not _run_stage(recipe, directory, number, progress, place):
                status, reason = "interrupted", f"stage {stage.name} was stopped by a signal"
                break
            directory.show_model(number, stage.name)
        else:
            status = "completed"
    except PacelineError as error:
        reason = str(error)
        raise
    except KeyboardInterrupt:  # between two stages: within one it is a signal to its event loop
        status, reason = "interrupted", "stopped by a signal"
        raise
    finally:
        wall_s = time.perf_counter() - started
        directory.summary(_summary(recipe, directory, status=status, reason=reason, wall_s=wall_s))
    return directory.path


def check_all(recipe: StagedRecipe, progress: Progress) -> None:
    """What can be found wrong before any stage starts: models, data, lengths, devices.

    Where a stage's model is made by another, the checkpoint that this one goes back to stands for it: it has the same
    tokenizer and shape.

    Raises:
        SettingError: as `stages.NAME.setting`.
    """
    roots: dict[str, str] = {}
    for number, stage in enumerate(recipe.stages, start=1):
        progress.phase(f"checking stage {number} of {len(recipe.stages)}: {stage.name}")
        rooted = with_optimizer(with_models(stage, roots), None)
        try:
            _find_companions(rooted, progress)
            if isinstance(rooted, Recipe):
                prepare(rooted, progress)
            else:
                prepare_examples(rooted, progress)
        except SettingError as error:
            raise SettingError(f"stages.{stage.name}.{error.setting}", error.reason, error.fix) from None
        roots[HANDED + stage.name] = rooted.model


def _find_companions(recipe: StageRecipe, progress: Progress) -> None:
    """Reference and teacher, which a run itself asks for only once its learner starts."""
    for setting, model in models_of(recipe).items():
        if setting == "model":
            continue
        try:
            find_model(model, progress)
        except SettingError as error:
            raise SettingError(setting, error.reason, error.fix) from None


def _run_stage(
    recipe: StagedRecipe, directory: StagesDirectory, number: int, progress: Progress, place: RunPlace
) -> bool:
    """Run one stage; returns whether it came to its end."""
    stage = recipe.stages[number - 1]
    progress.say(f"stage {number} of {len(recipe.stages)}: {stage.name} ({stage.kind})", "bold")
    folder = directory.stage(number, stage.name)
    broken_off = has_checkpoint(folder / CHECKPOINTS)
    aside = None if broken_off else directory.clear(number, stage.name)
    if aside is not None:
        progress.warn(
            f"stage {stage.name} was stopped before its first checkpoint and begins anew; what it left lies in {aside}"
        )
    handed = {
        HANDED + before.name: str(directory.model(place, before.name))
        for place, before in enumerate(recipe.stages[: number - 1], start=1)
    }
    optimizer = Path(handed[stage.model]).with_name(OPTIMIZER) if stage.model in handed else None
    settled = with_optimizer(with_models(stage, handed), optimizer).model_copy(
        update={"run_dir": str(folder), "name": f"{recipe.name}-{stage.name}"}
    )
    _run_one(settled, progress, place.at(folder), broken_off=broken_off)
    return status_of(folder) == "completed"


def _run_one(stage: StageRecipe, progress: Progress, place: RunPlace, *, broken_off: bool) -> None:
    """Args: broken_off: the folder holds a checkpoint, from which the stage goes on."""
    if isinstance(stage, Recipe):
        run_recipe(stage, progress, place, find_resumption(place.folder) if broken_off else None)
    else:
        run_supervised(stage, progress, place, find_supervised_resumption(place.folder) if broken_off else None)


def _summary(
    recipe: StagedRecipe, directory: StagesDirectory, *, status: Status, reason: str | None, wall_s: float
) -> dict[str, object]:
    """The content of the whole's summary.json; a stage's own keys are those of its summary."""
    stages: list[dict[str, object]] = []
    for number, stage in enumerate(recipe.stages, start=1):
        folder = directory.stage(number, stage.name)
        summary = summary_of(folder)
        facts = {key: summary[key] for key in SUMMED_UP if key in summary}
        stages.append(
            {
                "name": stage.name,
                "kind": stage.kind,
                "folder": str(folder.relative_to(directory.path)),
                "status": summary.get("status", "not begun"),
                **facts,
            }
        )
    return {
        "status": status,
        "reason": reason,
        "steps": sum(int(str(stage.get("steps", 0))) for stage in stages),
        "wall_s": round(wall_s, 3),
        "stages": stages,
    }
