"""What stands around the pods: the recipe, the shared volume, and how many pods an eviction must leave."""

from collections.abc import Sequence

from deploy.manifests.containers import INSTANCE, RECIPE_FILE, ROLE, Site, metadata
from deploy.manifests.pods import PodGroup
from deploy.manifests.tree import Tree


def recipe_map(site: Site, name: str, recipe: str) -> Tree:
    """The resolved recipe, as the head reads it."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(site, name),
        "data": {RECIPE_FILE: recipe},
    }


def claim(site: Site, name: str) -> Tree:
    """A volume that all pods see at once: run directories, checkpoints, and the models that were downloaded."""
    options = site.options
    chosen = {} if options.storage_class is None else {"storageClassName": options.storage_class}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": metadata(site, name),
        "spec": {
            "accessModes": ["ReadWriteMany"],
            **chosen,
            "resources": {"requests": {"storage": options.storage_size}},
        },
    }


def budgets(site: Site, groups: Sequence[PodGroup]) -> list[Tree]:
    """Head and learners are not evicted; engines, rewards and judges are, since a run replaces them.

    A number and no share, since Kubernetes can count the pods of a custom resource in no other way.
    """
    learners = sum(group.pods for group in groups if group.role == "learner")
    kept = {"head": 1, **({"learner": learners} if learners else {})}
    return [_budget(site, role, count) for role, count in kept.items()]


def _budget(site: Site, role: str, count: int) -> Tree:
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(site, f"{site.name}-{role}"),
        "spec": {
            "minAvailable": count,
            "selector": {"matchLabels": {INSTANCE: site.name, ROLE: role}},
        },
    }
