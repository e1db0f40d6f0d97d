"""`paceline submit`: a recipe becomes a job of a Ray cluster.

All that can be checked without the cluster is checked before anything is sent. Submitting the same run again goes on
from its newest checkpoint: what the job starts is `paceline train --resume`.
"""

import json
import platform
import secrets
import shlex
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import metadata
from pathlib import Path

import ray
import yaml

from deploy import job_entry
from deploy.job_client import MARK, JobServer, Unreachable
from deploy.jobs import RUN_DIR
from deploy.parcel import LIMIT_MIB, Parcel, pack
from orchestrator.errors import RunError, SettingError
from orchestrator.recipe import Tree
from orchestrator.stages.load import dump_any, load_any
from orchestrator.stages.recipes import AnyRecipe, StagedRecipe

ENTRY = "paceline_job.py"
HOME = "~/paceline-runs"
"""On the cluster: where runs go whose recipe does not say."""
CLOSE_S = 60.0
"""What a job may take to end once its checkpoint is written."""


@dataclass(frozen=True, slots=True)
class Job:
    """A job that can be submitted.

    Attributes:
        run_dir: on the cluster.
        stop_wait_s: what its end may take.
    """

    submission_id: str
    recipe: str
    run_dir: str
    parcel: Parcel
    stop_wait_s: float

    @property
    def text(self) -> str:
        """The recipe as the job reads it."""
        return yaml.safe_dump(self.parcel.tree, sort_keys=False, allow_unicode=True)


def make_job(
    recipe: str,
    overrides: Sequence[str],
    *,
    root: Path,
    also: Sequence[str] = (),
    with_source: bool = False,
    limit_mib: float = LIMIT_MIB,
) -> Job:
    """Resolve and check a recipe for a cluster, and gather what the job needs; nothing is sent.

    Raises:
        SettingError: the first fault.
    """
    resolved = load_any(recipe, overrides)
    tree: Tree = yaml.safe_load(dump_any(resolved))
    submission_id = f"{resolved.name}-{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    run_dir = resolved.run_dir or f"{HOME}/{submission_id}"
    if not (run_dir.startswith(("/", "~")) or "://" in run_dir):
        fix = "give an absolute path there, one that all nodes share, or leave it out"
        raise SettingError(RUN_DIR, f"{run_dir} is relative, and a job on a cluster has a folder of its own", fix)
    parcel = pack(_on_cluster(tree, run_dir), root, also=also, with_source=with_source, limit_mib=limit_mib)
    return Job(submission_id, resolved.name, run_dir, parcel, _patience(resolved) + CLOSE_S)


def submit(server: JobServer, job: Job, *, python: str, with_source: bool, any_version: bool) -> None:
    """Upload and start a job.

    Raises:
        SettingError: the cluster is another one than it should be.
        RunError: it refused.
    """
    if not any_version:
        server.check_version()
    versions = {
        "python": "{}.{}".format(*platform.python_version_tuple()),
        "ray": ray.__version__,
        "paceline": metadata.version("paceline"),
    }
    note = {"versions": versions, "run_dir": job.run_dir, "with_source": with_source, "any_version": any_version}
    with tempfile.TemporaryDirectory(prefix="paceline-job-") as name:
        folder = Path(name)
        job.parcel.write(folder)
        (folder / "recipe.yaml").write_text(job.text, encoding="utf-8")
        (folder / ENTRY).write_text(Path(job_entry.__file__).read_text(encoding="utf-8"), encoding="utf-8")
        (folder / job_entry.NOTE).write_text(json.dumps(note), encoding="utf-8")
        try:
            server.submit(
                f"exec {shlex.quote(python)} {ENTRY}",  # in the shell's place: signals reach the run at once
                folder,
                submission_id=job.submission_id,
                metadata={MARK: versions["paceline"], "recipe": job.recipe, RUN_DIR: job.run_dir},
                stop_wait_s=job.stop_wait_s,
            )
        except Unreachable as error:
            raise RunError(f"the upload broke off: {error}", f"see `paceline status {job.submission_id}`") from None


def _on_cluster(tree: Tree, run_dir: str) -> Tree:
    """The settings with the cluster that they run on."""
    stages = tree.get("stages")
    if isinstance(stages, list):
        return {**tree, RUN_DIR: run_dir, "stages": [_joined(stage) for stage in stages]}
    return {**_joined(tree), RUN_DIR: run_dir}


def _joined(tree: Tree) -> Tree:
    settings = tree.get("ray")
    return {**tree, "ray": {**(settings if isinstance(settings, dict) else {}), "address": "auto"}}


def _patience(recipe: AnyRecipe) -> float:
    if isinstance(recipe, StagedRecipe):
        return max(stage.trainer.stop_timeout_s for stage in recipe.stages)
    return recipe.trainer.stop_timeout_s
