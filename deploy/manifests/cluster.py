"""The Ray cluster: a head on which no actor runs, and a group of pods for each kind of nodes in the topology."""

from collections.abc import Sequence
from importlib.metadata import version

from deploy.manifests.containers import Site, amount, container_security, head_pod, metadata, worker_pod
from deploy.manifests.pods import PodGroup
from deploy.manifests.tree import Tree

API = "ray.io/v1"
IDLE_S = 300
"""After which a further engine's pod is given back."""


def ray_cluster(site: Site, groups: Sequence[PodGroup]) -> Tree:
    """A cluster that stays until it is deleted."""
    return {
        "apiVersion": API,
        "kind": "RayCluster",
        "metadata": metadata(site, site.name),
        "spec": cluster_spec(site, groups),
    }


def cluster_spec(site: Site, groups: Sequence[PodGroup]) -> Tree:
    """Token authentication is on: whoever speaks to the cluster must have its token."""
    autoscales = any(group.most > group.pods for group in groups)
    store_bytes = max(group.store_bytes for group in groups)
    named = {} if site.options.auth_secret is None else {"secretName": site.options.auth_secret}
    return {
        "rayVersion": version("ray"),
        "authOptions": {"mode": "token", **named},
        **(_autoscaling() if autoscales else {}),
        "headGroupSpec": {
            "serviceType": "ClusterIP",
            "enableIngress": False,
            # The operator asks the dashboard for the job's state; who else may is the network policy's to say.
            "rayStartParams": {"dashboard-host": "0.0.0.0", "object-store-memory": str(store_bytes)},
            "resources": {"CPU": "0"},
            "template": head_pod(site, autoscales=autoscales, store_bytes=store_bytes),
        },
        "workerGroupSpecs": [_worker_group(site, group) for group in groups],
    }


def _worker_group(site: Site, group: PodGroup) -> Tree:
    return {
        "groupName": group.name,
        "replicas": group.pods,
        "minReplicas": group.pods,
        "maxReplicas": group.most,
        "rayStartParams": {"object-store-memory": str(group.store_bytes)},
        "resources": {
            "CPU": str(group.ray_cpus),
            **({"GPU": str(group.gpus)} if group.gpus else {}),
            "memory": amount(group.actors_bytes),
            group.nodes: "1",
        },
        "template": worker_pod(site, group),
    }


def _autoscaling() -> Tree:
    amounts = {"cpu": "500m", "memory": "1Gi"}
    return {
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {
            "version": "v2",
            "upscalingMode": "Default",
            "idleTimeoutSeconds": IDLE_S,
            "imagePullPolicy": "IfNotPresent",
            "resources": {"requests": amounts, "limits": amounts},
            "securityContext": container_security(),
        },
    }
