"""The pod of a kind: its container, what it may, what it mounts, and what it is told by environment.

Least privilege: no pod runs as root, gains privileges or sees the account's token unless it needs it; keys reach the
head alone, and pods of the reward, where a model's answers are scored, get none, and no shared volume either.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from deploy.manifests import names
from deploy.manifests.binding import MOUNT
from deploy.manifests.needs import HUB_KEY, TRACKER_KEY, Needs
from deploy.manifests.options import ClusterOptions
from deploy.manifests.pods import GIB, RAY_GIB, SCRATCH_GIB, PodGroup
from deploy.manifests.tree import Tree

INSTANCE, ROLE = "paceline/instance", "paceline/role"
"""Labels of all pods; policies choose by them."""
PACELINE = {"app.kubernetes.io/part-of": "paceline"}
NO_CLASS = "none"
"""Says that the reward runs in what the nodes run everything in."""
USER = 1000
"""The image's user."""
GPU = "nvidia.com/gpu"
GCS_PORT, DASHBOARD_PORT, CLIENT_PORT, METRICS_PORT, SERVE_PORT = 6379, 8265, 10001, 8080, 8000
STOPPING_S, KILLED_S = 60, 90
"""How long Ray's processes have to end, and the pod."""
RECIPE_FOLDER, RECIPE_FILE = "/etc/paceline", "recipe.yaml"
_SHARED, _STORAGE, _RECIPE = "shared-memory", "storage", "recipe"
_SHARED_MOUNT: Tree = {"name": _SHARED, "mountPath": "/dev/shm"}


@dataclass(frozen=True, slots=True)
class Site:
    """What all pods of a rendering have in common.

    Attributes:
        claim: of the shared volume; None where there is none.
        recipe: ConfigMap with the recipe; None where nothing is begun by what is rendered.
    judge_key: variable with the key that the pods of a judge ask for; None where there is no judge's service.
    """

    name: str
    device: Literal["cpu", "gpu"]
    needs: Needs
    options: ClusterOptions
    claim: str | None
    recipe: str | None = None
    judge_key: str | None = None


def labels(site: Site, role: str) -> dict[str, str]:
    return {**PACELINE, INSTANCE: site.name, ROLE: role}


def metadata(site: Site, name: str, role: str | None = None) -> Tree:
    """Of an object beside the pods."""
    made = labels(site, role or "cluster")
    del made[ROLE]
    space = {} if site.options.namespace is None else {"namespace": site.options.namespace}
    return {"name": name, **space, "labels": made}


def head_pod(site: Site, *, autoscales: bool, store_bytes: int) -> Tree:
    """The head: Ray's control plane, and the run's driver; no actor."""
    options = site.options
    head = PodGroup(
        nodes="",
        roles=frozenset(),
        pods=1,
        most=1,
        cores=options.head_cpus,
        ray_cpus=0,
        gpus=0,
        actors_bytes=options.head_gib * GIB,
        store_bytes=store_bytes,
        scratch_bytes=SCRATCH_GIB * GIB,
    )
    ports = {"gcs-server": GCS_PORT, "dashboard": DASHBOARD_PORT, "client": CLIENT_PORT, **_ports(site)}
    container = {
        **_container(site, head, "ray-head", ports),
        "env": [*_environment(site, shared=True), *_keys(site)],
        **_storage_keys(site),
        "volumeMounts": [_SHARED_MOUNT, *_storage_mounts(site), *_recipe_mounts(site)],
    }
    volumes = [_shared_memory(head.shared_bytes), *_storage_volumes(site), *_recipe_volumes(site)]
    return _pod(site, "head", container, volumes, keeps=True, sees_account=autoscales)


def worker_pod(site: Site, group: PodGroup) -> Tree:
    """A pod of this kind."""
    shares = group.roles != {"reward"}
    container = {
        **_container(site, group, "ray-worker", _ports(site)),
        "env": [*_environment(site, shared=shares), *_judge_keys(site)],
        **(_storage_keys(site) if shares else {}),
        "volumeMounts": [_SHARED_MOUNT, *(_storage_mounts(site) if shares else [])],
    }
    volumes = [_shared_memory(group.shared_bytes), *(_storage_volumes(site) if shares else [])]
    return _pod(site, group.role, container, volumes, keeps="learner" in group.roles, group=group)


def submitter_pod(site: Site) -> Tree:
    """The pod that hands the job to the cluster and follows its log; KubeRay writes its command."""
    memory = f"{RAY_GIB}Gi"
    amounts = {"cpu": "500m", "memory": memory}
    container = {
        "name": "ray-job-submitter",
        "image": site.options.image_for(site.device),
        "imagePullPolicy": "IfNotPresent",
        "resources": {"requests": amounts, "limits": amounts},
        "securityContext": container_security(),
    }
    spec = {**_identity(site, sees_account=False), "restartPolicy": "Never", "containers": [container]}
    return {"metadata": {"labels": labels(site, "submitter")}, "spec": spec}


def amount(size: int) -> str:
    """Bytes as Kubernetes writes memory."""
    return f"{math.ceil(size / 2**20)}Mi"


def container_security() -> Tree:
    return {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def secret(variable: str, name: str, key: str | None = None, *, optional: bool) -> Tree:
    """A variable whose value a Secret holds."""
    reference = {"name": name, "key": key or variable, "optional": optional}
    return {"name": variable, "valueFrom": {"secretKeyRef": reference}}


def _pod(
    site: Site,
    role: str,
    container: Tree,
    volumes: Sequence[Tree],
    *,
    keeps: bool,
    sees_account: bool = False,
    group: PodGroup | None = None,
) -> Tree:
    """Args: keeps: the run loses steps with the pod, so that nobody shall evict or preempt it."""
    kept = {"annotations": {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"}} if keeps else {}
    important = keeps and site.options.priority_class is not None
    spec = {
        **_identity(site, sees_account=sees_account),
        **({"priorityClassName": site.options.priority_class} if important else {}),
        **(_sandbox(site) if group is not None and group.roles == {"reward"} else {}),
        **(_gpu_nodes(site) if group is not None and group.gpus else {}),
        "terminationGracePeriodSeconds": KILLED_S,
        "containers": [container],
        "volumes": list(volumes),
    }
    return {"metadata": {"labels": labels(site, role), **kept}, "spec": spec}


def _identity(site: Site, *, sees_account: bool) -> Tree:
    """As whom a pod runs. Seccomp's default profile, and a group that may write to volumes."""
    options = site.options
    account = {} if options.service_account is None else {"serviceAccountName": options.service_account}
    pull = {} if options.pull_secret is None else {"imagePullSecrets": [{"name": options.pull_secret}]}
    return {
        **account,
        "automountServiceAccountToken": sees_account or options.service_account is not None,
        **pull,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }


def sandbox_class(site: Site) -> str | None:
    """Runtime class of pods in which nothing but the reward is."""
    wanted = site.options.sandbox_class or ("gvisor" if site.needs.runs_programs else NO_CLASS)
    return None if wanted == NO_CLASS else wanted


def _sandbox(site: Site) -> Tree:
    wanted = sandbox_class(site)
    return {} if wanted is None else {"runtimeClassName": wanted}


def _gpu_nodes(site: Site) -> Tree:
    chosen = names.labels("--node-selector", site.options.node_selector)
    return {
        **({"nodeSelector": chosen} if chosen else {}),
        "tolerations": [{"key": GPU, "operator": "Exists", "effect": "NoSchedule"}],
    }


def _container(site: Site, group: PodGroup, name: str, ports: Mapping[str, int]) -> Tree:
    amounts = {"cpu": str(group.cores), "memory": amount(group.memory_bytes)}
    if group.gpus:
        amounts[GPU] = str(group.gpus)
    return {
        "name": name,
        "image": site.options.image_for(site.device),
        "imagePullPolicy": "IfNotPresent",
        "ports": [{"name": port, "containerPort": number} for port, number in ports.items()],
        "resources": {"requests": amounts, "limits": amounts},
        "securityContext": container_security(),
        "lifecycle": {"preStop": {"exec": {"command": ["ray", "stop", "--grace-period", str(STOPPING_S)]}}},
    }


def _ports(site: Site) -> Mapping[str, int]:
    """By the names that KubeRay looks for; of the head's it makes Services, also that of a judge."""
    return {"metrics": METRICS_PORT, **({} if site.judge_key is None else {"serve": SERVE_PORT})}


def _environment(site: Site, *, shared: bool) -> list[Tree]:
    cache = f"{MOUNT}/cache" if shared and site.claim is not None else "/tmp/cache"
    fixed = {
        "PACELINE_CACHE": cache,
        "HF_HOME": f"{cache}/huggingface",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
    }
    return [{"name": name, "value": value} for name, value in fixed.items()]


def _keys(site: Site) -> list[Tree]:
    keys, needs = site.options.keys, site.needs
    tracker = [secret(TRACKER_KEY, keys, optional=True)] if needs.tracker else []
    asked = [secret(name, keys, optional=False) for name in needs.endpoint_keys]
    return [secret(HUB_KEY, keys, optional=True), *tracker, *asked]


def _judge_keys(site: Site) -> list[Tree]:
    """Of the pods of a judge's service, which fetch its model themselves."""
    if site.judge_key is None:
        return []
    keys = site.options.keys
    return [secret(HUB_KEY, keys, optional=True), secret(site.judge_key, keys, optional=False)]


def _storage_keys(site: Site) -> Tree:
    """The cloud may give access by the pods' account instead, so the Secret may be missing."""
    if not site.needs.object_storage:
        return {}
    by_account = site.options.service_account is not None
    return {"envFrom": [{"secretRef": {"name": site.options.storage_keys, "optional": by_account}}]}


def _shared_memory(size: int) -> Tree:
    return {"name": _SHARED, "emptyDir": {"medium": "Memory", "sizeLimit": amount(size)}}


def _storage_volumes(site: Site) -> list[Tree]:
    if site.claim is None:
        return []
    return [{"name": _STORAGE, "persistentVolumeClaim": {"claimName": site.claim}}]


def _storage_mounts(site: Site) -> list[Tree]:
    return [] if site.claim is None else [{"name": _STORAGE, "mountPath": MOUNT}]


def _recipe_volumes(site: Site) -> list[Tree]:
    return [] if site.recipe is None else [{"name": _RECIPE, "configMap": {"name": site.recipe}}]


def _recipe_mounts(site: Site) -> list[Tree]:
    return [] if site.recipe is None else [{"name": _RECIPE, "mountPath": RECIPE_FOLDER, "readOnly": True}]
