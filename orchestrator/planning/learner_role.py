"""The learner's line: from a recipe to what a rank needs."""

import math
from collections.abc import Callable
from typing import Literal

from learners.critic.advantages import asks_critic
from learners.objective import companions_needed
from learners.settings import AlgorithmSettings, TrainerSettings
from orchestrator.config import Recipe
from orchestrator.group_plan import plan_of
from orchestrator.planning import processes
from orchestrator.planning.heap import with_heap
from orchestrator.planning.learner_memory import (
    LearnerParts,
    RankNeed,
    Sharding,
    Trained,
    learner_need,
    together,
)
from orchestrator.planning.memory import Need
from orchestrator.planning.model_shape import ModelShape, PlannedModel, body_of, shape_of
from orchestrator.planning.passes import Passes, Row, passes_of
from orchestrator.planning.places import Places, places_of
from orchestrator.stages.recipes import StageRecipe

Device = Literal["cpu", "gpu"]
ModelOf = Callable[[str, str], PlannedModel]
"""Finds a model by name, for the setting that names it."""


def rank_need(recipe: StageRecipe, model_of: ModelOf, device: Device) -> RankNeed:
    """What rank 0 takes beyond an idle process.

    Raises:
        SettingError: a model's configuration cannot be had.
        UnforeseenError: a pass cannot be followed.
    """
    trainer, algorithm = recipe.trainer, recipe.algorithm
    model = model_of(recipe.model, "model")
    row = largest_row(recipe)
    return learner_need(
        LearnerParts(
            policy=Trained(shape_of(model, trainer.lora), _passes(model, row, trainer, device)),
            critic=_critic(model, recipe, row, model_of, device),
            companions=_companions(algorithm, trainer, model, model_of),
            published=int(isinstance(recipe, Recipe)),
            wire=_number(trainer.dtype),
            windows=_windows(recipe, model),
        ),
        sharding_of(recipe, device),
    )


def cpu_rank_need(recipe: StageRecipe, model_of: ModelOf) -> Need:
    """What rank 0 takes of the main memory beyond an idle process, where it computes on cores.

    Raises:
        As `rank_need`.
    """
    shape = shape_of(model_of(recipe.model, "model"), recipe.trainer.lora)
    return with_heap(together(rank_need(recipe, model_of, "cpu")), shape)


def sharding_of(recipe: StageRecipe, device: Device) -> Sharding:
    trainer, places = recipe.trainer, places_of(recipe)
    stage = (trainer.zero_stage or 3) if trainer.backend == "deepspeed" else None
    return Sharding(
        ranks=places.ranks,
        compute=_number(trainer.dtype),
        checkpointing=trainer.activation_checkpointing,
        accumulates=_makes_several_passes(recipe, places),
        offload=trainer.cpu_offload,
        zero_stage=stage,
        copies=device == "cpu",
    )


def longest_sequence(recipe: StageRecipe) -> int:
    """Tokens; supervised examples may fill a row."""
    if not isinstance(recipe, Recipe):
        return recipe.trainer.token_budget
    return recipe.rollout.max_prompt_tokens + recipe.rollout.max_response_tokens


def sequences_per_update(recipe: StageRecipe) -> int:
    """Sequences that one optimizer step trains on."""
    answers = plan_of(recipe).answers if isinstance(recipe, Recipe) else 1
    return max(1, recipe.trainer.prompts_per_step * answers // recipe.trainer.minibatches)


def largest_row(recipe: StageRecipe) -> Row:
    """The largest micro-batch that can come about: as many of the longest sequences as the token budget holds."""
    places, longest = places_of(recipe), longest_sequence(recipe)
    share = math.ceil(sequences_per_update(recipe) / places.readers)
    tokens = max(2, min(recipe.trainer.token_budget, share * longest))
    answers = recipe.rollout.max_response_tokens / longest if isinstance(recipe, Recipe) else 1.0
    if places.sequence_parallel > 1:
        own = math.ceil(tokens / places.sequence_parallel)
        return Row((max(2, own),), max(1, int(own * answers)))
    whole, left = divmod(tokens, longest)
    lengths = (longest,) * whole + ((left,) if left >= 2 else ())
    return Row(lengths or (tokens,), max(1, int(sum(lengths) * answers)))


def process_bytes(device: Device) -> int:
    """Of a rank's process before it loads a model, in main memory."""
    return processes.LEARNER if device == "cpu" else 2 * processes.LEARNER


def _makes_several_passes(recipe: StageRecipe, places: Places) -> bool:
    share = math.ceil(sequences_per_update(recipe) / places.readers)
    return recipe.trainer.stream or share * longest_sequence(recipe) > recipe.trainer.token_budget


def _passes(model: PlannedModel, row: Row, trainer: TrainerSettings, device: Device) -> Passes:
    return passes_of(model, row, dtype=trainer.dtype, device=device, lora=trainer.lora)


def _critic(model: PlannedModel, recipe: StageRecipe, row: Row, model_of: ModelOf, device: Device) -> Trained | None:
    algorithm = recipe.algorithm
    if not isinstance(recipe, Recipe) or not asks_critic(algorithm.advantage):
        return None
    settings = algorithm.critic
    own = None if settings is None else settings.model
    source = model if own is None else model_of(own, "algorithm.critic.model")
    passes = passes_of(source, row, dtype=recipe.trainer.dtype, device=device, head=False)
    return Trained(body_of(shape_of(source)), passes)


def _companions(
    algorithm: AlgorithmSettings, trainer: TrainerSettings, model: PlannedModel, model_of: ModelOf
) -> dict[str, ModelShape]:
    found: dict[str, ModelShape] = {}
    for name in sorted(companions_needed(algorithm)):
        settings = algorithm.reference if name == "reference" else algorithm.teacher
        own = None if settings is None else settings.model
        if trainer.lora is not None and own is None and settings is not None and settings.kind == "fixed":
            continue  # the policy without its adapters
        found[name] = shape_of(model if own is None else model_of(own, f"algorithm.{name}.model"))
    return found


def _windows(recipe: StageRecipe, model: PlannedModel) -> int:
    """Hidden states of one step that are kept for the drafter."""
    if not isinstance(recipe, Recipe) or recipe.speculation is None or not recipe.speculation.learns:
        return 0
    capture = recipe.speculation.capture
    layers = 4 if recipe.speculation.drafter == "eagle3" else 1
    share = math.ceil(sequences_per_update(recipe) / places_of(recipe).readers)
    rounds = max(1, math.ceil(share * longest_sequence(recipe) / recipe.trainer.token_budget))
    tokens = rounds * recipe.trainer.minibatches * capture.tokens_per_pass
    return tokens * layers * shape_of(model).hidden * _number(capture.dtype)


def _number(dtype: Literal["bfloat16", "float32"]) -> int:
    return 2 if dtype == "bfloat16" else 4
