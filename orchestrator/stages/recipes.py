"""Recipes beside the one of a run on engines: supervised steps alone, and several stages one after another."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import model_validator

from learners.settings import AlgorithmSettings, Section, TrainerSettings
from orchestrator.config import RaySettings, Recipe, TrackingSettings
from orchestrator.data.examples import ExamplesSettings
from orchestrator.storage.settings import StorageSettings
from orchestrator.topology import LearnerTopology

HANDED = "stage:"
"""Stands before a stage's name where a recipe means the model that the stage makes."""


class SupervisedRecipe(Section):
    """Likelihood of given examples: the learner of every other stage, without engines and rewards."""

    name: str
    kind: Literal["sft"] = "sft"
    seed: int = 0
    device: Literal["auto", "cpu", "gpu"] = "auto"
    topology: LearnerTopology = LearnerTopology()
    model: str
    run_dir: str | None = None
    storage: StorageSettings = StorageSettings()
    examples: ExamplesSettings
    trainer: TrainerSettings = TrainerSettings()
    """`prompts_per_step` counts examples."""
    tracking: TrackingSettings = TrackingSettings()
    ray: RaySettings = RaySettings()

    @model_validator(mode="after")
    def _whole_batches(self) -> "SupervisedRecipe":
        if self.trainer.stream or self.trainer.minibatches > 1:
            setting = "stream=true" if self.trainer.stream else f"minibatches={self.trainer.minibatches}"
            raise ValueError(f"trainer.{setting} means nothing where kind is sft: leave it out")
        return self

    @property
    def algorithm(self) -> AlgorithmSettings:
        """The weighted likelihood: an advantage of w makes -w log p of `reinforce`."""
        return AlgorithmSettings(surrogate="reinforce", old_logprobs="behaviour", aggregation=self.examples.aggregation)


StageRecipe = Recipe | SupervisedRecipe


@dataclass(frozen=True, slots=True)
class StagedRecipe:
    """Stages one after another.

    Attributes:
        run_dir: None makes runs/<name>-<time>.
        stages: each a recipe of its own, whose name is the stage's; `model`, and the models of reference and teacher,
            may be `stage:NAME` of an earlier one.
    """

    name: str
    run_dir: str | None
    stages: tuple[StageRecipe, ...]

    @property
    def storage(self) -> StorageSettings:
        """It belongs to `run_dir`: all stages inherit it alike."""
        return self.stages[0].storage


AnyRecipe = Recipe | SupervisedRecipe | StagedRecipe


def models_of(recipe: StageRecipe) -> dict[str, str]:
    """The models that a stage reads, by the setting that names each."""
    named: dict[str, str | None] = {"model": recipe.model}
    if isinstance(recipe, Recipe):
        algorithm = recipe.algorithm
        named["algorithm.reference.model"] = algorithm.reference.model
        named["algorithm.teacher.model"] = None if algorithm.teacher is None else algorithm.teacher.model
    return {setting: model for setting, model in named.items() if model is not None}


def with_optimizer(recipe: StageRecipe, folder: Path | None) -> StageRecipe:
    """The recipe with this in the place of another stage's optimizer."""
    if not (recipe.trainer.optimizer_from or "").startswith(HANDED):
        return recipe
    taken = None if folder is None else str(folder)
    return recipe.model_copy(update={"trainer": recipe.trainer.model_copy(update={"optimizer_from": taken})})


def with_models(recipe: StageRecipe, models: Mapping[str, str]) -> StageRecipe:
    """The recipe with these in the place of models of the same names (`stage:sft` -> a folder)."""
    model = models.get(recipe.model, recipe.model)
    if isinstance(recipe, SupervisedRecipe):
        return recipe.model_copy(update={"model": model})
    algorithm = recipe.algorithm
    companions = {}
    for name, settings in (("reference", algorithm.reference), ("teacher", algorithm.teacher)):
        if settings is not None and settings.model is not None and settings.model in models:
            companions[name] = settings.model_copy(update={"model": models[settings.model]})
    return recipe.model_copy(update={"model": model, "algorithm": algorithm.model_copy(update=companions)})
