"""A recipe as its pods are told it: Ray's address, a run directory that outlives them, and which pods each role is on.

The pods of a role offer a custom resource of its name, and the topology asks for it (`nodes`), so that an engine never
sits in the reward's sandbox and the answer of a model is never scored beside the learner.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePosixPath
from typing import TypeVar

from pydantic import BaseModel

from deploy.manifests.names import slug
from orchestrator.config import Recipe
from orchestrator.errors import SettingError
from orchestrator.placement import Bundle, Placement, bundles, place, rank_bundles
from orchestrator.stages.recipes import AnyRecipe, StagedRecipe, StageRecipe, SupervisedRecipe

MOUNT = "/paceline"
"""Where the shared volume is in every pod that has it."""
LONGEST_JUDGE = 30
"""Characters of a served model's name that stay in the name of its pods."""
ADDRESS = "auto"
"""The run's driver is on the head."""
_Section = TypeVar("_Section", bound=BaseModel)


def bound(recipe: AnyRecipe, name: str) -> AnyRecipe:
    """Raises: SettingError: the recipe leaves open what a cluster must know, or writes where pods lose it."""
    folder = _run_dir(recipe.run_dir, name)
    if isinstance(recipe, StagedRecipe):
        return replace(recipe, run_dir=folder, stages=tuple(_stage(stage, None) for stage in recipe.stages))
    return _stage(recipe, folder)


def stages_of(recipe: AnyRecipe) -> tuple[StageRecipe, ...]:
    return recipe.stages if isinstance(recipe, StagedRecipe) else (recipe,)


def reserved(stage: StageRecipe) -> tuple[Bundle, ...]:
    """What Ray sets aside for a stage in the cluster. Raises: SettingError: the topology contradicts itself."""
    if isinstance(stage, Recipe):
        return bundles(stage, place(stage, gpus=0))
    learner = stage.topology.learner
    if stage.device == "cpu":
        return tuple(rank_bundles(learner, Placement("cpu", 0, 0, "gloo", 0)))
    per_rank = 1 if learner.gpus is None else learner.gpus
    return tuple(rank_bundles(learner, Placement("gpu", 0, per_rank, "nccl", 0)))


def object_storage(folder: str | None) -> bool:
    """Whether it is an address, such as s3://bucket/runs, and no path."""
    return folder is not None and "://" in folder


def _run_dir(given: str | None, name: str) -> str:
    if given is None:
        return f"{MOUNT}/runs/{name}"
    if object_storage(given) or PurePosixPath(given).is_relative_to(MOUNT):
        return given
    raise SettingError(
        "run_dir", f"{given} is inside a pod and goes with it", f"leave it out, or set a path in {MOUNT} or s3://..."
    )


def _stage(stage: StageRecipe, run_dir: str | None) -> StageRecipe:
    if stage.device == "auto":
        reason = "auto goes by the machine, and the cluster is another"
        raise SettingError("device", reason, "write device=gpu, or device=cpu for a cluster without")
    ray = _changed(stage.ray, {"address": ADDRESS})
    if isinstance(stage, SupervisedRecipe):
        alone = _changed(stage.topology, {"learner": _on(stage.topology.learner, "learner")})
        return _changed(stage, {"run_dir": run_dir, "ray": ray, "topology": alone})
    places = stage.topology
    served = [name for name, model in stage.reward.models.items() if model.served]
    topology = _changed(
        places,
        {
            "rollout": _on(places.rollout, "rollout"),
            "learner": _on(places.learner, "learner"),
            "reward": _on(places.reward, "reward"),
            "drafter": _on(places.drafter, "drafter"),
            "judges": {
                name: _on(places.judge_places(name), f"judge-{slug(name, longest=LONGEST_JUDGE)}") for name in served
            },
        },
    )
    return _changed(stage, {"run_dir": run_dir, "ray": ray, "topology": topology})


def _judge_nodes(model: str) -> str:
    return f"judge-{slug(model, longest=LONGEST_JUDGE)}"


def _on(places: _Section, nodes: str) -> _Section:
    """These places on nodes of this resource, where the recipe names none."""
    return places if getattr(places, "nodes", None) is not None else _changed(places, {"nodes": nodes})


def _changed(section: _Section, update: Mapping[str, object]) -> _Section:
    return section.model_copy(update=dict(update))
