"""The judge as a service: replicas of one model of `reward.models`, at an endpoint that many runs may ask."""

from collections.abc import Sequence

import yaml
from pydantic import JsonValue

from deploy.manifests.cluster import API, cluster_spec
from deploy.manifests.containers import SERVE_PORT, Site, metadata
from deploy.manifests.pods import PodGroup
from deploy.manifests.tree import WIDTH, Tree
from deploy.serving import KEY_VARIABLE, JudgeArguments
from orchestrator.config import Recipe
from orchestrator.errors import SettingError

APPLICATION = "deploy.judge_service:app"
UNHEALTHY_S = 1800
"""A model that is fetched and loaded has so long before KubeRay takes the service for broken."""


def judge_of(recipe: Recipe) -> str:
    """The model that is served. Raises: SettingError: the recipe serves none, or several."""
    served = sorted(name for name, model in recipe.reward.models.items() if model.served)
    if len(served) == 1:
        return served[0]
    if not served:
        reason, fix = "the recipe serves no model to its rewards", "write reward.models.judge.model=..."
    else:
        reason, fix = f"the recipe serves {', '.join(served)}", "render a recipe for each, with one of them"
    raise SettingError("reward.models", reason, fix)


def ray_service(site: Site, group: PodGroup, arguments: JudgeArguments) -> Tree:
    """The head serves nothing, so that the service's address leads to workers alone."""
    return {
        "apiVersion": API,
        "kind": "RayService",
        "metadata": metadata(site, site.name),
        "spec": {
            "excludeHeadPodFromServeSvc": True,
            "deploymentUnhealthySecondThreshold": UNHEALTHY_S,
            "serviceUnhealthySecondThreshold": UNHEALTHY_S,
            "serveConfigV2": _served(site, arguments.model_dump(mode="json")),
            "rayClusterConfig": cluster_spec(site, [group]),
        },
    }


def address(site: Site) -> str:
    """What `reward.models.NAME.url` is in the recipes that ask it."""
    space = "" if site.options.namespace is None else f".{site.options.namespace}"
    return f"http://{site.name}-serve-svc{space}:{SERVE_PORT}/v1"


def asked_by(site: Site, model: str) -> Sequence[str]:
    """The overrides with which a recipe asks it."""
    return (
        f"reward.models.{model}.url={address(site)}",
        f"reward.models.{model}.api_key_env={KEY_VARIABLE}",
    )


def _served(site: Site, arguments: JsonValue) -> str:
    application = {
        "name": site.name,
        "route_prefix": "/",
        "import_path": APPLICATION,
        "args": arguments,
    }
    location = {"proxy_location": "EveryNode", "http_options": {"host": "0.0.0.0", "port": SERVE_PORT}}
    return yaml.safe_dump({**location, "applications": [application]}, sort_keys=False, width=WIDTH)
