"""What a Kubernetes cluster would refuse, found without one: KubeRay's own schemas, and those of Kubernetes."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml

KUBERAY = Path(__file__).parents[3] / "shared/kuberay-crds"
KUBERNETES = "1.37"
needs_kuberay = pytest.mark.skipif(not KUBERAY.is_dir(), reason=f"KubeRay's schemas are not at {KUBERAY}")
RAY_KINDS = {"RayJob": "rayjobs", "RayCluster": "rayclusters", "RayService": "rayservices"}

Json = dict[str, object]


def check(manifest: Json) -> None:
    """Raises where a field is unknown, missing or of another type; an unknown field is a typing error, not ignored."""
    kind = str(manifest["kind"])
    if kind in RAY_KINDS:
        jsonschema.Draft202012Validator(ray_schema(kind)).validate(manifest)
        for pod in pods_of(manifest):
            check_core(
                {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "metadata": {"name": "a-pod", **pod["metadata"]},
                    "spec": pod["spec"],
                }
            )
    else:
        check_core(manifest)


def check_core(manifest: Json) -> None:
    kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


@cache
def ray_schema(kind: str) -> Json:
    resource = yaml.load(
        (KUBERAY / f"ray.io_{RAY_KINDS[kind]}.yaml").read_bytes(), Loader=yaml.CSafeLoader
    )  # ten times as fast
    (version,) = [version for version in resource["spec"]["versions"] if version["name"] == "v1"]
    schema = strict(version["schema"]["openAPIV3Schema"])
    # Kubernetes checks these two itself.
    schema["properties"]["metadata"] = {"type": "object"}
    return schema


def strict(schema: Json) -> Json:
    """A custom resource's schema as JSON schema, in which a field that is not listed is wrong."""
    made = {
        name: {key: strict(value) for key, value in part.items()} if name == "properties" else _strict_part(part)
        for name, part in schema.items()
        if name not in ("format", "default")
    }
    if schema.get("x-kubernetes-int-or-string"):
        made.pop("type", None)
        made["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    open_ended = "additionalProperties" in schema or schema.get("x-kubernetes-preserve-unknown-fields")
    if "properties" in schema and not open_ended:
        made["additionalProperties"] = False
    return made


def _strict_part(part: object) -> object:
    if isinstance(part, dict):
        return strict(part)
    if isinstance(part, list):
        return [_strict_part(item) for item in part]
    return part


def cluster_of(manifest: Mapping[str, object]) -> Json:
    """The Ray cluster in a manifest, as its spec."""
    spec = manifest["spec"]
    inside = {"RayJob": "rayClusterSpec", "RayService": "rayClusterConfig"}.get(str(manifest["kind"]))
    return spec if inside is None else spec[inside]


def pods_of(manifest: Mapping[str, object]) -> list[Json]:
    """All pods' templates."""
    cluster = cluster_of(manifest)
    templates = [cluster["headGroupSpec"]["template"], *[group["template"] for group in cluster["workerGroupSpecs"]]]
    submitter = manifest["spec"].get("submitterPodTemplate")
    return [*templates, *([submitter] if submitter else [])]
