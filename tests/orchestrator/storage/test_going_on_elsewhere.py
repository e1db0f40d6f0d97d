"""A driver dies with its machine: what lies in S3 is a run that can go on, with its logs as they were at that step.

The learners are stood in for here; tests/end_to_end/test_storage.py kills and resumes a real run.
"""

import asyncio
import shutil
from dataclasses import replace
from pathlib import Path

from orchestrator.checkpoints import Checkpoints
from orchestrator.progress import Progress
from orchestrator.recipe import dump_recipe
from orchestrator.resume import find_resumption
from orchestrator.run_directory import RunDirectory
from orchestrator.storage.fetch import fetch_run
from orchestrator.storage.remote_folder import RemoteFolder
from orchestrator.storage.run_mirror import RunMirror
from orchestrator.storage.settings import StorageSettings
from tests.object_store import BUCKET, ObjectStore
from tests.orchestrator.test_checkpoints import Disk, recipe, state

PLACE = f"s3://{BUCKET}/runs/mine"


def test_a_checkpoint_there_can_be_gone_on_from_with_nothing_here(store: ObjectStore, tmp_path: Path) -> None:
    settings = StorageSettings(working_dir=str(tmp_path / "elsewhere"), sync_every_s=600)
    here = tmp_path / "here"
    mirror = RunMirror(here, RemoteFolder(PLACE, settings.timeout_s), settings)
    mirror.begin()
    directory = RunDirectory(here, dump_recipe(recipe()))

    async def work() -> None:
        checkpoints = Checkpoints(directory.checkpoints, recipe(), Disk(), mirror=mirror)
        for step in (10, 20, 30):
            directory.event({"event": "trained", "step": step})
            directory.metrics({"step": step})
            await checkpoints.write(replace(state(step), marks=directory.marks()))
        await checkpoints.settle()
        await mirror.room()

    asyncio.run(work())
    directory.event({"event": "after the last copy"})
    directory.close()
    mirror._stopped.set()  # the driver is killed
    shutil.rmtree(here)

    folder = fetch_run(PLACE, None, settings, Progress("test"))
    found = find_resumption(folder, [f"run_dir={PLACE}"])
    assert (found.step, found.recipe.run_dir) == (30, PLACE)
    assert find_resumption(fetch_run(PLACE, 20, settings, Progress("test"))).step == 20
    again = RunDirectory(folder, dump_recipe(found.recipe), since=found.checkpoint.state.marks)
    again.samples("step-000031", [{"answer": 1}])
    again.close()
    assert (folder / "metrics.jsonl").read_text() == '{"step": 10}\n{"step": 20}\n{"step": 30}\n'
    assert (folder / "events.jsonl").read_text().count("trained") == 3
