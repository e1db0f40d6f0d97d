"""What a recipe needs of the cluster beside pods: keys, storage, models at endpoints, a sandbox."""

from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from deploy.manifests.binding import object_storage
from orchestrator.config import Recipe
from orchestrator.stages.recipes import AnyRecipe, StageRecipe
from rewards.registry import RUNS_PROGRAMS

HUB_KEY, TRACKER_KEY = "HF_TOKEN", "WANDB_API_KEY"
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Needs:
    """Attributes:
    endpoint_keys: environment variables with the keys of models at endpoints; a run refuses to begin without.
    tracker: whether Weights & Biases is told.
    object_storage: whether the run directory is an address.
    endpoint_ports: where those models listen.
    runs_programs: whether a reward runs programs that the model wrote.
    """

    endpoint_keys: tuple[str, ...] = ()
    tracker: bool = False
    object_storage: bool = False
    endpoint_ports: tuple[int, ...] = ()
    runs_programs: bool = False


def needs_of(recipe: AnyRecipe, stages: Iterable[StageRecipe]) -> Needs:
    """Of all stages together."""
    stages = tuple(stages)
    rewards = [stage.reward for stage in stages if isinstance(stage, Recipe)]
    asked = [model for reward in rewards for model in reward.models.values() if model.url is not None]
    addresses = [urlsplit(model.url or "") for model in asked]
    return Needs(
        endpoint_keys=tuple(sorted({model.api_key_env for model in asked if model.api_key_env is not None})),
        tracker=any(stage.tracking.wandb for stage in stages),
        object_storage=object_storage(recipe.run_dir),
        endpoint_ports=tuple(sorted({url.port or _PORTS[url.scheme] for url in addresses})),
        runs_programs=any(term.name in RUNS_PROGRAMS for reward in rewards for term in reward.terms),
    )
