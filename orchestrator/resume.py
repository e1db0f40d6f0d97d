"""Going on with a run from its checkpoint: what is read before anything starts, and what cannot be changed by it.

A recipe may change at a break in whatever does not contradict what has been trained already: number of steps, learning
rate, workers, ranks, lengths. What would make the continuation another run is refused, with the setting's name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from learners.weights import WeightTruth
from orchestrator.checkpoints import Checkpoint, State, find_checkpoint
from orchestrator.config import Recipe
from orchestrator.errors import RunError, SettingError
from orchestrator.recipe import load_recipe
from orchestrator.run_layout import CHECKPOINTS, CONFIG, MODEL
from orchestrator.run_state import RunState
from orchestrator.stages.directory import status_of
from orchestrator.stages.recipes import StageRecipe

FIXED: Mapping[str, str] = {
    "seed": "the draws of the answers come from it",
    "model": "the checkpoint holds its weights",
    "data": "the checkpoint holds a place in it",
    "trainer.prompts_per_step": "the account of prompts counts in batches",
    "trainer.dtype": "the weights are checked by their checksum in it",
    "algorithm.advantage_norm": "the checkpoint holds its state",
    "algorithm.reference": "the checkpoint holds its weights",
}
"""What a run keeps over a break, and why."""


@dataclass(frozen=True, slots=True)
class Resumption:
    """A run that can go on.

    Attributes:
        folder: the run directory.
        recipe: the run's own, with what was changed for the continuation.
    """

    folder: Path
    recipe: Recipe
    checkpoint: Checkpoint[RunState]

    @property
    def step(self) -> int:
        """Training steps that were made."""
        return self.checkpoint.state.step


def find_resumption(folder: Path, overrides: Sequence[str] = (), step: int | None = None) -> Resumption:
    """Read what is needed to go on; nothing is changed yet.

    Args:
        overrides: `key.sub=value`, as in `paceline train`.
        step: of the checkpoint; None is the newest.

    Raises:
        SettingError: the folder holds no run or no usable checkpoint, or a setting cannot be changed in between.
    """
    return resumption_of(load_recipe(str(config_of(folder)), overrides), folder, step)


def resumption_of(recipe: Recipe, folder: Path, step: int | None = None) -> Resumption:
    """The run in a folder, to go on by this recipe; raises what `find_resumption` does."""
    checkpoint = find_checkpoint(folder / CHECKPOINTS, RunState, step)
    check_continuation(folder, recipe, checkpoint, FIXED)
    return Resumption(folder, recipe, checkpoint)


def config_of(folder: Path) -> Path:
    """The recipe that a run left. Raises: SettingError: the folder holds no run."""
    config = folder / CONFIG
    if not config.is_file():
        raise SettingError("RUN", f"{folder} holds no run", "give the run_dir of a run, such as runs/quickstart-...")
    return config


def check_continuation(
    folder: Path, recipe: StageRecipe, checkpoint: Checkpoint[State], fixed: Mapping[str, str]
) -> None:
    """Whether the run can go on from its checkpoint with this recipe.

    Args:
        fixed: settings that it keeps, and why.

    Raises:
        SettingError: it cannot, or has nothing left to do.
    """
    for setting, why in fixed.items():
        before, now = _at(checkpoint.recipe, setting), _at(recipe.model_dump(mode="json"), setting)
        if before != now:
            raise SettingError(setting, f"it cannot change when a run is resumed: {why}", f"leave it at {before}")
    if checkpoint.state.step > recipe.trainer.steps:
        raise SettingError(
            "trainer.steps",
            f"the checkpoint has made {checkpoint.state.step} steps already, and {recipe.trainer.steps} are wanted",
            "raise it, or resume from an older --step",
        )
    ended = status_of(folder) == "completed" and (folder / MODEL).is_dir()
    if checkpoint.state.step == recipe.trainer.steps and ended:
        raise SettingError("RUN", f"all of its {recipe.trainer.steps} steps are made", "raise trainer.steps to go on")


def check_weights(checkpoint: Checkpoint[State], truth: WeightTruth) -> None:
    """What the learner has loaded is, bit by bit, what it had published at that step.

    Raises:
        RunError: it is not.
    """
    wrong = [name for name, value in checkpoint.state.weights.items() if truth.checksums.get(name) != value]
    if wrong or len(truth.checksums) != len(checkpoint.state.weights):
        name = f" ({wrong[0]})" if wrong else ""
        raise RunError(f"the weights in {checkpoint.path} are damaged{name}", "resume from an older one with --step")


def _at(tree: Mapping[str, JsonValue], setting: str) -> JsonValue:
    value: JsonValue = dict(tree)
    for key in setting.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value
