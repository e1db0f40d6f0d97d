"""Going on with a run of whatever kind from what it left: on engines, of supervised steps, of several stages.

A run of several stages goes on in the stage that broke off, from that stage's own checkpoint; stages that are complete
are not made again. Of a run in storage what it needs is fetched to a new folder here. `begin_or_go_on` is for whoever
starts the same run again and again until it is complete: a job that is submitted anew, a pod that is restarted.
"""

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from orchestrator.checkpoints import has_checkpoint
from orchestrator.errors import PacelineError, SettingError
from orchestrator.progress import Progress
from orchestrator.recipe import read_tree
from orchestrator.resume import Resumption, config_of, find_resumption, resumption_of
from orchestrator.run import run_recipe
from orchestrator.run_directory import moved_aside
from orchestrator.run_layout import CHECKPOINTS, CONFIG
from orchestrator.stages.directory import summary_of
from orchestrator.stages.load import load_any
from orchestrator.stages.recipes import AnyRecipe, StagedRecipe, StageRecipe, SupervisedRecipe
from orchestrator.stages.run import run_any, run_stages
from orchestrator.stages.supervised_resume import (
    SupervisedResumption,
    find_supervised_resumption,
    supervised_resumption_of,
)
from orchestrator.stages.supervised_run import run_supervised
from orchestrator.storage.address import check_address, is_remote, local_path
from orchestrator.storage.fetch import fetch_config, fetch_run, move_aside_there, what_is_there
from orchestrator.storage.place import kept_place


@dataclass(frozen=True, slots=True)
class StagesResumption:
    """A run of several stages that can go on.

    Attributes:
        folder: the run directory.
    """

    folder: Path
    recipe: StagedRecipe


AnyResumption = Resumption | SupervisedResumption | StagesResumption


def resume_any(run: str, progress: Progress, overrides: Sequence[str] = (), step: int | None = None) -> Path:
    """Go on with a run in a folder or in storage; returns the folder that it works in.

    Args:
        overrides, step: see `find_resumption`; not of several stages.

    Raises:
        SettingError: it holds nothing that can go on so; nothing was changed.
        RunError: the run had to stop; see `run_recipe`, `run_supervised` and `run_stages`.
    """
    check_address("RUN", run)
    if not is_remote(run):
        return go_on(find_any_resumption(local_path(run), overrides, step), progress)
    # Where it lies now counts, wherever it was made.
    overrides = [*overrides, f"run_dir={run}"]
    recipe = _recipe_there(run, overrides, progress)
    folder = fetch_run(run, step, recipe.storage, progress)
    try:
        found = find_any_resumption(folder, overrides, step)
    except PacelineError:
        shutil.rmtree(folder)
        raise
    return go_on(found, progress, fetched=True)


def find_any_resumption(folder: Path, overrides: Sequence[str] = (), step: int | None = None) -> AnyResumption:
    """Read what is needed to go on; nothing is changed yet.

    Raises:
        SettingError: the folder holds nothing that can go on so.
    """
    tree = read_tree(str(config_of(folder)))
    if "stages" not in tree:
        find = find_supervised_resumption if tree.get("kind") == "sft" else find_resumption
        return find(folder, overrides, step)
    if overrides or step is not None:
        raise SettingError(
            overrides[0].partition("=")[0] if overrides else "--step",
            f"{folder} holds several stages, which go on as they began",
            f"resume one stage with it, such as {folder}/stages/2-NAME, then {folder} for what comes after",
        )
    recipe = load_any(str(config_of(folder)))
    assert isinstance(recipe, StagedRecipe), "its tree has stages"
    return StagesResumption(folder, recipe)


def go_on(found: AnyResumption, progress: Progress, *, fetched: bool = False) -> Path:
    """Go on; returns the run directory. Raises what `run_recipe`, `run_supervised` and `run_stages` raise.

    Args:
        fetched: its folder comes from its place in storage.
    """
    recipe = found.recipe
    with kept_place(recipe.run_dir, found.folder, recipe.storage, progress, fetched=fetched) as place:
        if isinstance(found, StagesResumption):
            return run_stages(found.recipe, progress, place)
        if isinstance(found, SupervisedResumption):
            return run_supervised(found.recipe, progress, place, found)
        return run_recipe(found.recipe, progress, place, found)


def begin_or_go_on(recipe: AnyRecipe, progress: Progress) -> Path:
    """Go on with the run in `run_dir` from its newest checkpoint, or begin it where there is none.

    A run that broke off before its first checkpoint begins anew; what it left is moved aside.

    Returns: the run directory. Raises what `go_on` and `run_any` raise, and

    Raises:
        SettingError: the recipe does not say where the run is.
    """
    if recipe.run_dir is None:
        raise SettingError("run_dir", "is missing, and --resume goes on with the run that is there", "set run_dir")
    if isinstance(recipe, StagedRecipe):
        return run_any(recipe, progress)
    if is_remote(recipe.run_dir):
        return _begin_or_go_on_there(recipe, recipe.run_dir, progress)
    folder = local_path(recipe.run_dir)
    if not folder.exists():
        return run_any(recipe, progress)
    _expect_steps_left(recipe, summary_of(folder))
    if not has_checkpoint(folder / CHECKPOINTS):
        progress.warn(f"{folder} has no checkpoint: the run begins anew, what it left lies in {moved_aside(folder)}")
        return run_any(recipe, progress)
    return go_on(_resumption_of(recipe, folder), progress)


def _begin_or_go_on_there(recipe: StageRecipe, url: str, progress: Progress) -> Path:
    """The same for a run in storage."""
    found = what_is_there(url, recipe.storage, progress)
    _expect_steps_left(recipe, found.summary)
    if found.run and not found.checkpoint:
        aside = move_aside_there(url, recipe.storage, progress)
        progress.warn(f"{url} has no checkpoint: the run begins anew, what it left lies in {aside}")
    if not found.checkpoint:
        return run_any(recipe, progress)
    folder = fetch_run(url, None, recipe.storage, progress)
    try:
        resumption = _resumption_of(recipe, folder)
    except PacelineError:
        shutil.rmtree(folder)
        raise
    return go_on(resumption, progress, fetched=True)


def _expect_steps_left(recipe: StageRecipe, made: Mapping[str, object]) -> None:
    """Args: made: the summary of the run that is there, if it has one."""
    if made.get("status") == "completed" and int(str(made["steps"])) >= recipe.trainer.steps:
        raise SettingError("RUN", f"all of its {recipe.trainer.steps} steps are made", "raise trainer.steps to go on")


def _resumption_of(recipe: StageRecipe, folder: Path) -> Resumption | SupervisedResumption:
    if isinstance(recipe, SupervisedRecipe):
        return supervised_resumption_of(recipe, folder)
    return resumption_of(recipe, folder)


def _recipe_there(run: str, overrides: Sequence[str], progress: Progress) -> StageRecipe:
    """Of a run in storage, with what is changed for the continuation."""
    tree = fetch_config(run, progress)
    if "stages" in tree:
        raise SettingError(
            "RUN",
            f"{run} holds several stages, whose folders name each other and which go on only where they were begun",
            "resume the folder in which it worked",
        )
    with tempfile.TemporaryDirectory(prefix="paceline-") as folder:
        config = Path(folder) / CONFIG
        config.write_text(yaml.safe_dump(tree), encoding="utf-8")
        recipe: AnyRecipe = load_any(str(config), overrides)
    assert not isinstance(recipe, StagedRecipe), "its tree has no stages"
    return recipe
