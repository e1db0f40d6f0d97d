"""What a rendered cluster is told beside the recipe: where it runs and with what, never how much of each role."""

from dataclasses import dataclass
from typing import Literal

from deploy.manifests import names
from orchestrator.errors import SettingError

Target = Literal["rayjob", "raycluster", "rayservice-judge"]
LONGEST_NAME: dict[Target, int] = {"rayjob": 47, "raycluster": 53, "rayservice-judge": 47}
"""KubeRay appends to them, and a Service's name has 63 characters."""
KEYS, STORAGE = "paceline-keys", "paceline-storage"


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """Attributes:
    name: of what is rendered; None takes the recipe's.
    namespace: None leaves it to `kubectl -n`.
    image: None is what the Dockerfiles' own lines call theirs, paceline:gpu or paceline:cpu.
    pull_secret: Secret with the registry's credentials.
    keys: Secret with the keys of hub, tracker and endpoints, a key of it for each variable.
    storage_keys: Secret whose keys become the environment of pods that reach object storage.
    auth_secret: Secret with Ray's token as `auth_token`; None lets KubeRay make one.
    service_account: of all pods, where the cloud gives access by account.
    claim: a claim that exists already; None makes one of `storage_size` and `storage_class`.
    gpus_per_pod: most GPUs of one pod; a node must have as many.
    node_selector: labels of the nodes with GPUs, as key=value.
    priority_class: of head and learner pods, which are not to be preempted.
    sandbox_class: runtime class of the reward pods; None is `gvisor` where a reward runs programs of the model, `none`
        is the nodes' own.
    head_cpus, head_gib: of the head, which holds the run's driver.
    retries: how often a job that failed is begun again on a new cluster; it resumes.
    deadline_s: after which a job is given up; None never.
    keep_s: how long a cluster outlives its job.
    queue: Kueue's queue that the job waits in; None starts it at once.
    operator_namespace, metrics_namespace: of KubeRay and of Prometheus, whose pods may reach the head and the metrics;
        None is any for the first, nobody for the second.
    storage_port: of object storage inside the cluster, which does not listen where S3 does.
    replicas: of the judge.
    """

    name: str | None = None
    namespace: str | None = None
    image: str | None = None
    pull_secret: str | None = None
    keys: str = KEYS
    storage_keys: str = STORAGE
    auth_secret: str | None = None
    service_account: str | None = None
    claim: str | None = None
    storage_size: str = "100Gi"
    storage_class: str | None = None
    gpus_per_pod: int = 8
    node_selector: tuple[str, ...] = ()
    priority_class: str | None = None
    sandbox_class: str | None = None
    head_cpus: int = 2
    head_gib: int = 6
    retries: int = 2
    deadline_s: int | None = None
    keep_s: int = 600
    queue: str | None = None
    operator_namespace: str | None = None
    metrics_namespace: str | None = None
    storage_port: int | None = None
    replicas: int = 1

    def image_for(self, device: Literal["cpu", "gpu"]) -> str:
        if self.image is not None:
            return self.image
        return f"paceline:{device}"


def check_options(options: ClusterOptions) -> None:
    """Raises: SettingError: names the first option that Kubernetes would refuse."""
    objects = {
        "--pull-secret": options.pull_secret,
        "--keys": options.keys,
        "--storage-keys": options.storage_keys,
        "--auth-secret": options.auth_secret,
        "--service-account": options.service_account,
        "--claim": options.claim,
        "--storage-class": options.storage_class,
        "--priority-class": options.priority_class,
        "--sandbox-class": options.sandbox_class,
    }
    for setting, name in objects.items():
        if name is not None:
            names.check_object(setting, name)
    spaces = {
        "--namespace": options.namespace,
        "--operator-namespace": options.operator_namespace,
        "--metrics-namespace": options.metrics_namespace,
        "--queue": options.queue,
    }
    for setting, space in spaces.items():
        if space is not None:
            names.check_label(setting, space)
    if options.image is not None:
        names.check_image("--image", options.image)
    names.check_quantity("--storage-size", options.storage_size)
    names.labels("--node-selector", options.node_selector)
    if options.claim is not None and options.storage_class is not None:
        reason = f"the claim {options.claim} exists and has a class of its own"
        raise SettingError("--storage-class", reason, "leave out one of the two")
