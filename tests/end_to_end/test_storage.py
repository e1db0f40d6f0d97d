"""Runs whose place is S3, a real server's: written, broken off, gone on with from nothing but what is there."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.end_to_end.conftest import RunFolder, paceline, start, wait_for
from tests.end_to_end.test_faults import assert_exact
from tests.end_to_end.test_resume import kill_all
from tests.object_store import BUCKET, KEYS, ObjectStore, object_store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
WriteRecipe = Callable[..., Path]
PLACE = f"s3://{BUCKET}/runs/mine"


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectStore]:
    with object_store() as store:
        yield store


@pytest.fixture
def store(server: ObjectStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ObjectStore:
    """An empty bucket, and an environment for the commands in which S3 is there and nothing is cached."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PACELINE_CACHE", str(tmp_path / "cache"))
    server.clear()
    return server


@contextmanager
def started(recipe: Path) -> Iterator["subprocess.Popen[str]"]:
    """Killed with all of its family, where it has not ended."""
    process = start(recipe)
    try:
        yield process
    finally:
        if process.poll() is None:
            kill_all(process)


def upload(store: ObjectStore, folder: Path, prefix: str) -> str:
    for file in folder.iterdir():
        store.client.upload_file(str(file), BUCKET, f"{prefix}/{file.name}")
    return f"s3://{BUCKET}/{prefix}"


def assert_no_secret(store: ObjectStore, said: str, *folders: Path) -> None:
    """Neither what was said, nor what lies here or in the storage, holds a key."""
    keys = [KEYS["AWS_ACCESS_KEY_ID"], KEYS["AWS_SECRET_ACCESS_KEY"]]
    assert not any(key in said for key in keys)
    here = [file.read_bytes() for folder in folders for file in folder.rglob("*") if file.is_file()]
    there = [store.read(f"runs/{name}") for name in store.names("runs/")]
    assert len(there) > 5
    assert not any(key.encode() in content for key in keys for content in here + there)


def test_a_run_that_is_killed_goes_on_elsewhere_from_what_lies_in_s3(
    write_recipe: WriteRecipe, tmp_path: Path, checkpoint: Path, store: ObjectStore
) -> None:
    data = tmp_path / "sums.jsonl"
    data.write_text("".join(json.dumps({"question": f"{n} + 1", "answer": str(n + 1)}) + "\n" for n in range(40)))
    store.client.upload_file(str(data), BUCKET, "data/sums.jsonl")
    recipe = write_recipe(
        model=upload(store, checkpoint, "models/tiny"),
        run_dir=PLACE,
        storage={"working_dir": str(tmp_path / "here"), "sync_every_s": 1.0, "patience_s": 60},
        data={"tasks": None, "path": f"s3://{BUCKET}/data/sums.jsonl", "eval_size": 4},
        rollout={"max_response_tokens": 24, "max_staleness": 2},
        trainer={"steps": 12, "checkpoint_every": 2},
        topology={"learner": {"ranks": 2}},
    )
    with started(recipe) as process:
        wait_for(lambda: "checkpoints/step-000004/run.json" in store.names("runs/mine/"), process, seconds=400)
        kill_all(process)
    shutil.rmtree(tmp_path / "here")  # the machine is gone
    assert "summary.json" not in store.names("runs/mine/")

    again = paceline("train", str(recipe))
    assert again.code == 2
    assert "holds a run already and is never overwritten" in again.err
    reported = paceline("report", PLACE)
    assert reported.code == 0, reported.out + reported.err
    assert "The tail" in reported.out

    resumed = paceline("resume", PLACE, f"storage.working_dir={tmp_path / 'elsewhere'}", timeout_s=500)
    assert resumed.code == 0, resumed.out + resumed.err
    assert "Traceback" not in resumed.out + resumed.err
    (folder,) = [RunFolder(path) for path in (tmp_path / "elsewhere").iterdir()]
    assert folder.summary["status"] == "completed"
    assert_exact(folder)
    rows = [json.loads(line) for line in (folder.path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 13))
    names = set(store.names("runs/mine/"))
    for name in ("metrics.jsonl", "events.jsonl", "summary.json", "trace.json", "model/model.safetensors"):
        assert store.read(f"runs/mine/{name}") == (folder.path / name).read_bytes(), name
    whole = sorted(re.findall(r"checkpoints/(step-\d+)/run.json", "\n".join(names)))
    assert whole == ["step-000010", "step-000012"]
    assert_no_secret(store, resumed.out + resumed.err, folder.path)

    over = paceline("resume", PLACE, f"storage.working_dir={tmp_path / 'third'}")
    assert over.code == 2
    assert "all of its 12 steps are made" in over.err
    assert list((tmp_path / "third").glob("*")) == []


def test_storage_that_is_gone_in_mid_run_ends_it_by_name_and_the_folder_goes_on_when_it_is_back(
    write_recipe: WriteRecipe, tmp_path: Path, store: ObjectStore
) -> None:
    recipe = write_recipe(
        run_dir=PLACE,
        storage={"working_dir": str(tmp_path / "here"), "sync_every_s": 1.0, "timeout_s": 5, "patience_s": 4},
        trainer={"steps": 400, "checkpoint_every": 2},
    )
    with started(recipe) as process:
        wait_for(lambda: "checkpoints/step-000002/run.json" in store.names("runs/mine/"), process, seconds=400)
        store.kill()
        out, err = process.communicate(timeout=120)
    assert process.returncode == 1, out + err
    assert err.strip().count("\n") == 0, err
    (folder,) = (tmp_path / "here").iterdir()
    assert f"{PLACE} takes nothing" in err
    assert f"all of the run is in {folder}" in err
    assert "it cannot be reached" in err
    assert "the run goes on, and waits at its next checkpoint" in out
    assert RunFolder(folder).summary["status"] == "failed"
    store.start_again()
    steps = int(str(RunFolder(folder).summary["steps"]))
    resumed = paceline("resume", str(folder), f"trainer.steps={steps + 2}", timeout_s=500)
    assert resumed.code == 0, resumed.out + resumed.err
    assert json.loads(store.read("runs/mine/summary.json"))["status"] == "completed"
    assert "model/model.safetensors" in store.names("runs/mine/")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_disk_that_turns_read_only_in_mid_run_ends_it_in_one_line(write_recipe: WriteRecipe, tmp_path: Path) -> None:
    """A file system with files open for writing cannot be remounted: a read-only one is laid over the run's folder."""
    recipe = write_recipe(trainer={"steps": 400, "checkpoint_every": 5})
    folder = RunFolder(tmp_path / "run")
    mount = ["mount", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", str(folder.path)]
    with started(recipe) as process:
        first = folder.path / "checkpoints" / "step-000005"
        wait_for(first.exists, process, seconds=400)
        if subprocess.run(mount, check=False, timeout=10).returncode != 0:
            pytest.skip("this system does not let root mount a tmpfs")
        try:
            out, err = process.communicate(timeout=120)
        finally:
            subprocess.run(["umount", str(folder.path)], check=False, timeout=10)
    assert process.returncode == 1, out + err
    assert err.strip().count("\n") == 0, err
    assert "Read-only file system" in err
    assert "the disk has turned read-only: mend it and go on with `paceline resume`" in err
    assert (first / "run.json").is_file(), "what was whole is whole"
