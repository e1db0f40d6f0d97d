"""The Ray job: a cluster for one run, begun again where it fails, gone when it is over."""

from collections.abc import Sequence

from deploy.manifests.binding import MOUNT
from deploy.manifests.cluster import API, cluster_spec
from deploy.manifests.containers import RECIPE_FILE, RECIPE_FOLDER, Site, metadata, submitter_pod
from deploy.manifests.pods import PodGroup
from deploy.manifests.tree import Tree

ENTRYPOINT = f"paceline train {RECIPE_FOLDER}/{RECIPE_FILE}"
WORKING_DIR = f"storage.working_dir={MOUNT}/work"
"""Where a run with its directory in object storage works: all ranks must see it."""
SUBMISSIONS = 2
"""How often the pod that hands the job over is replaced."""
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"


def ray_job(site: Site, groups: Sequence[PodGroup]) -> Tree:
    """A second attempt runs the same command, which goes on from the newest checkpoint."""
    options = site.options
    described = metadata(site, site.name)
    if options.queue is not None:
        described = {**described, "labels": {**_labels(described), QUEUE_LABEL: options.queue}}
    limited = {} if options.deadline_s is None else {"activeDeadlineSeconds": options.deadline_s}
    return {
        "apiVersion": API,
        "kind": "RayJob",
        "metadata": described,
        "spec": {
            "entrypoint": " ".join([ENTRYPOINT, *([WORKING_DIR] if site.needs.object_storage else []), "--resume"]),
            "submissionMode": "K8sJobMode",
            "submitterConfig": {"backoffLimit": SUBMISSIONS},
            "backoffLimit": options.retries,
            **limited,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": options.keep_s,
            "suspend": options.queue is not None,
            "submitterPodTemplate": submitter_pod(site),
            "rayClusterSpec": cluster_spec(site, groups),
        },
    }


def _labels(described: Tree) -> Tree:
    found = described["labels"]
    assert isinstance(found, dict), "metadata makes them"
    return found
