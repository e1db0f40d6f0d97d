"""Going on with a run of whatever kind from what it left: on engines, of supervised steps, of several stages.

A run of several stages goes on in the stage that broke off, from that stage's own checkpoint; stages that are complete
are not made again.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from orchestrator.errors import SettingError
from orchestrator.progress import Progress
from orchestrator.recipe import read_tree
from orchestrator.resume import Resumption, config_of, find_resumption
from orchestrator.run import run_recipe
from orchestrator.stages.load import load_any
from orchestrator.stages.recipes import StagedRecipe
from orchestrator.stages.run import run_stages
from orchestrator.stages.supervised_resume import SupervisedResumption, find_supervised_resumption
from orchestrator.stages.supervised_run import run_supervised

AnyResumption = Resumption | SupervisedResumption | StagedRecipe


def find_any_resumption(folder: Path, overrides: Sequence[str] = (), step: int | None = None) -> AnyResumption:
    """Read what is needed to go on; nothing is changed yet.

    Args:
        overrides, step: see `find_resumption`; not of several stages.

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
    return replace(recipe, run_dir=str(folder))


def go_on(found: AnyResumption, progress: Progress) -> Path:
    """Go on; returns the run directory. Raises what `run_recipe`, `run_supervised` and `run_stages` raise."""
    if isinstance(found, StagedRecipe):
        return run_stages(found, progress)
    if isinstance(found, SupervisedResumption):
        return run_supervised(found.recipe, progress, found.folder, found)
    return run_recipe(found.recipe, progress, found)
