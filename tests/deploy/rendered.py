"""Recipes as they are rendered in tests."""

from collections.abc import Mapping, Sequence

import yaml

from deploy.manifests.options import ClusterOptions, Target
from deploy.manifests.rendering import Rendering, as_text, render
from orchestrator.stages.load import load_any

JUDGE = "reward.models.judge.model=Qwen/Qwen3-0.6B"


def rendering(
    recipe: str,
    *overrides: str,
    target: Target = "rayjob",
    environment: Mapping[str, str] | None = None,
    **options: object,
) -> Rendering:
    return render(load_any(recipe, overrides), target, ClusterOptions(**options), environment or {})


def manifests(rendered: Rendering) -> dict[str, dict]:
    """As `kubectl` reads them, by kind and name: from the text."""
    return {f"{m['kind']}/{m['metadata']['name']}": m for m in yaml.safe_load_all(as_text(rendered))}


def of_kind(rendered: Rendering, kind: str) -> dict:
    (found,) = [m for m in manifests(rendered).values() if m["kind"] == kind]
    return found


def groups(cluster: Mapping[str, Sequence]) -> dict[str, dict]:
    return {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
