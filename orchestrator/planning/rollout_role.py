"""The engines' line, and the drafter's: from a recipe to what each of them needs."""

from dataclasses import dataclass, replace
from functools import lru_cache

import torch

from orchestrator.config import Recipe
from orchestrator.drafting.settings import SpeculationSection
from orchestrator.placement import Placement
from orchestrator.planning import processes
from orchestrator.planning.engine_memory import (
    EngineLoad,
    EngineNeed,
    torch_engine,
    vllm_on_cpu,
    vllm_on_gpu,
)
from orchestrator.planning.heap import with_heap
from orchestrator.planning.memory import GIB, MIB, Moment, Need
from orchestrator.planning.model_shape import ModelShape, PlannedModel, on_meta, shape_of
from orchestrator.planning.places import places_of

TRAINED = 16
"""Bytes of a parameter that trains in float32: master, gradient and AdamW's two averages."""


@dataclass(frozen=True, slots=True)
class DrafterSize:
    """Elements that are the drafter's own, and layers that have keys and values."""

    elements: int
    layers: int


NO_DRAFTER = DrafterSize(0, 0)


def engine_need(recipe: Recipe, model: PlannedModel, placement: Placement, accelerator_bytes: int) -> EngineNeed:
    """Of one accelerator of an engine, or of its process on the CPU, beyond an idle one."""
    shape, load = shape_of(model), engine_load(recipe, model)
    if recipe.rollout.engine == "torch":
        found = torch_engine(shape, load)
        return replace(found, need=with_heap(found.need, shape))
    if placement.device == "gpu":
        return vllm_on_gpu(shape, load, memory=accelerator_bytes, utilization=placement.gpu_memory_utilization)
    return vllm_on_cpu(shape, load, kv=int(recipe.rollout.kv_cache_gib * GIB))


def engine_load(recipe: Recipe, model: PlannedModel) -> EngineLoad:
    rollout, drafter = recipe.rollout, drafter_of(recipe, model)
    return EngineLoad(
        context=rollout.max_prompt_tokens + rollout.max_response_tokens,
        max_running=rollout.max_running,
        number=2 if rollout.dtype == "bfloat16" else 4,
        tensor_parallel=places_of(recipe).tensor_parallel,
        draft=drafter.elements,
        draft_layers=drafter.layers,
    )


def engine_process_bytes(recipe: Recipe) -> int:
    """Of an engine's process before it loads a model, in main memory."""
    return processes.TORCH_ENGINE if recipe.rollout.engine == "torch" else processes.VLLM_ENGINE


def drafter_of(recipe: Recipe, model: PlannedModel) -> DrafterSize:
    """What drafts: nothing of any size without speculation, or from suffixes."""
    section = recipe.speculation
    if section is None or section.drafter == "suffix":
        return NO_DRAFTER
    return _built(section, model)


@lru_cache(maxsize=16)
def _size_of(kind: str, fused: tuple[int, ...] | None, layers: int, model: PlannedModel) -> DrafterSize:
    """The drafter, built without data."""
    from learners.drafters import kinds  # noqa: F401 - importing it registers all kinds
    from learners.drafters.drafter import DRAFTERS
    from learners.drafters.settings import DrafterSettings
    from learners.drafters.target import DraftTarget, TargetTables

    given: dict[str, object] = {"kind": kind}
    if kind == "eagle3" and fused is not None:
        given["fused_layers"] = fused
    if kind == "draft_model":
        given["draft_layers"] = layers
    built = on_meta(model.config, None, torch.float32)
    with torch.device("meta"):
        drafter = DRAFTERS[kind].build(
            DraftTarget.of_model(built),
            DrafterSettings.model_validate(given),
            TargetTables.of_model(built),
        )
    elements = sum(value.numel() for value in drafter.parameters() if value.requires_grad)
    return DrafterSize(elements, layers if kind == "draft_model" else 1)


def _built(section: SpeculationSection, model: PlannedModel) -> DrafterSize:
    return _size_of(section.drafter, section.fused_layers, section.draft_layers, model)


def drafter_trainer_need(recipe: Recipe, model: PlannedModel) -> Need | None:
    """Of the drafter's trainer beyond an idle process; None where nothing learns to draft."""
    section = recipe.speculation
    if section is None or not section.learns:
        return None
    shape, drafter = shape_of(model), drafter_of(recipe, model)
    number = 2 if section.training.dtype == "bfloat16" else 4
    tables = 4 * shape.vocabulary * shape.hidden * (1 if shape.tied else 2)
    stays = {
        "embedding and head": tables,
        "weights and optimizer": TRAINED * drafter.elements,
        "serving weights": (2 if recipe.rollout.dtype == "bfloat16" else 4) * drafter.elements,
        "windows": int(section.windows.capacity_mib * MIB),
    }
    return Need(stays, (Moment("a micro-step", {"activations": _micro_step(section, shape, number)}),))


def _micro_step(section: SpeculationSection, shape: ModelShape, number: int) -> int:
    """One layer's activations for each unrolled position, and a chunk of two distributions with their gradients."""
    unroll = section.training.unroll or (3 if section.drafter == "eagle3" else 1)
    tokens = section.retrain.token_budget
    layer = number * tokens * (8 * shape.hidden + 4 * shape.inner)
    return unroll * layer + 6 * 64 * MIB
