"""Going on with supervised steps from a checkpoint: what their driver remembers, and what cannot change in between."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.checkpoints import Checkpoint, find_checkpoint
from orchestrator.errors import SettingError
from orchestrator.resume import check_continuation, config_of
from orchestrator.run_directory import LogMarks
from orchestrator.run_layout import CHECKPOINTS
from orchestrator.stages.load import load_any
from orchestrator.stages.recipes import SupervisedRecipe
from orchestrator.stages.supervised_log import SupervisedTally

FIXED: Mapping[str, str] = {
    "seed": "the order of the examples comes from it",
    "model": "the checkpoint holds its weights",
    "examples": "the place in them is counted",
    "trainer.prompts_per_step": "the place in the examples is counted in steps",
    "trainer.dtype": "the weights are checked by their checksum in it",
}
"""What a run keeps over a break, and why."""


@dataclass(frozen=True, slots=True)
class SupervisedState:
    """At a step boundary. The place in the examples follows from seed and step.

    Attributes:
        step: training steps made.
        weights: checksum of each tensor.
        marks: of the logs.
        wall_s: of the run so far, over all its processes.
    """

    step: int
    weights: dict[str, int]
    tally: SupervisedTally
    marks: LogMarks
    wall_s: float


@dataclass(frozen=True, slots=True)
class SupervisedResumption:
    """A run of supervised steps that can go on.

    Attributes:
        folder: the run directory.
        recipe: the run's own, with what was changed for the continuation.
    """

    folder: Path
    recipe: SupervisedRecipe
    checkpoint: Checkpoint[SupervisedState]


def find_supervised_resumption(
    folder: Path, overrides: Sequence[str] = (), step: int | None = None
) -> SupervisedResumption:
    """See `orchestrator.resume.find_resumption`."""
    recipe = load_any(str(config_of(folder)), overrides)
    if not isinstance(recipe, SupervisedRecipe):
        raise SettingError("kind", "it cannot change when a run is resumed", "leave it at sft")
    return supervised_resumption_of(recipe, folder, step)


def supervised_resumption_of(recipe: SupervisedRecipe, folder: Path, step: int | None = None) -> SupervisedResumption:
    """See `orchestrator.resume.resumption_of`."""
    checkpoint = find_checkpoint(folder / CHECKPOINTS, SupervisedState, step)
    check_continuation(folder, recipe, checkpoint, FIXED)
    return SupervisedResumption(folder, recipe, checkpoint)
