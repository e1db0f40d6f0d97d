"""A run's copy in a real S3: what is to be seen there and when, and what the run does where the storage fails."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from orchestrator.errors import RunError
from orchestrator.progress import Progress
from orchestrator.storage.fault import StorageFault
from orchestrator.storage.remote_folder import RemoteFolder
from orchestrator.storage.run_mirror import OWNER, RunMirror
from orchestrator.storage.settings import StorageSettings
from tests.object_store import BUCKET, ObjectStore

URL = f"s3://{BUCKET}/runs/mine"
HASTY = StorageSettings(sync_every_s=0.2, timeout_s=30.0, patience_s=3.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text("name: mine\n")
    (folder / "events.jsonl").write_text('{"event": 1}\n')
    return folder


@pytest.fixture
def mirror(folder: Path, store: ObjectStore) -> Iterator[RunMirror]:
    mirror = begun(folder)
    yield mirror
    with suppress(StorageFault):
        mirror.withdraw()


def begun(folder: Path, settings: StorageSettings = HASTY) -> RunMirror:
    mirror = RunMirror(folder, RemoteFolder(URL, settings.timeout_s), settings)
    mirror.begin()
    return mirror


def checkpoint(folder: Path, step: int) -> Path:
    """As `Checkpoints` leaves one."""
    path = folder / "checkpoints" / f"step-{step:06d}"
    for part in ("learner", "model"):
        (path / part).mkdir(parents=True)
    (path / "learner" / ".metadata").write_bytes(b"names")
    (path / "learner" / "__0_0.distcp").write_bytes(b"x" * 1000)
    (path / "model" / "model.safetensors").write_bytes(b"y" * 500)
    (path / "run.json").write_text(json.dumps({"step": step}))
    return path


def there(store: ObjectStore) -> set[str]:
    return set(store.names("runs/mine/")) - {OWNER}


def eventually(condition: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def news(mirror: RunMirror) -> list[str]:
    told: list[str] = []
    mirror.report_to(told.append)
    mirror.check()
    return told


def test_logs_follow_and_the_rest_comes_at_the_end_the_summary_last(
    mirror: RunMirror, folder: Path, store: ObjectStore
) -> None:
    eventually(lambda: there(store) == {"config.yaml", "events.jsonl"})
    with (folder / "events.jsonl").open("a") as log:
        log.write('{"event": 2}\n')
    eventually(lambda: store.read("runs/mine/events.jsonl").count(b"\n") == 2)
    (folder / ".summary.json").write_text("a draft")
    (folder / "samples").mkdir()
    (folder / "samples" / "step-000001.jsonl").write_text("{}\n")
    (folder / "optimizer").mkdir()
    (folder / "optimizer" / ".metadata").write_bytes(b"names")
    (folder / "model.1").mkdir()
    (folder / "model.1" / "config.json").write_text("set aside, there too")
    (folder / "summary.json").write_text('{"status": "completed"}')
    mirror.finish(Progress("test"))
    expected = {"config.yaml", "events.jsonl", "samples/step-000001.jsonl", "optimizer/.metadata", "summary.json"}
    assert there(store) == expected
    assert news(mirror) == []
    assert list(mirror._sent)[-1] == "summary.json"


def test_a_checkpoint_shows_itself_whole_and_of_older_ones_the_model_stays(
    mirror: RunMirror, folder: Path, store: ObjectStore
) -> None:
    async def work() -> None:
        for step in (10, 20, 30):
            mirror.published(checkpoint(folder, step), keep=2)
            await mirror.room()

    asyncio.run(work())
    whole = {f"checkpoints/step-0000{n}/{part}" for n in (20, 30) for part in ("run.json", "learner/__0_0.distcp")}
    assert whole < there(store)
    assert "checkpoints/step-000030/learner/.metadata" in there(store)
    assert {name for name in there(store) if "step-000010" in name} == {
        "checkpoints/step-000010/model/model.safetensors"
    }
    mirror.forget_after(folder / "checkpoints", 20)
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text("{}")
    eventually(lambda: "model/config.json" in there(store))
    mirror.set_aside(folder)
    (folder / "model").rename(folder / "model.1")
    asyncio.run(mirror.room())
    assert {name for name in there(store) if "step-000030" in name} == set()
    assert "checkpoints/step-000020/run.json" in there(store)
    assert {name for name in there(store) if name.startswith("model")} == {"model.1/config.json"}


def test_no_card_is_there_before_all_of_its_checkpoint(mirror: RunMirror, folder: Path, store: ObjectStore) -> None:
    """The storage stops taking files in the middle of a checkpoint, and takes them again."""
    eventually(lambda: "events.jsonl" in there(store))
    store.deny("s3:PutObject")
    mirror.published(checkpoint(folder, 10), keep=2)
    eventually(lambda: mirror._trouble is not None)
    assert not any("checkpoints" in name for name in there(store))
    (told,) = news(mirror)
    assert told == f"{URL}: these credentials have no permission; the run goes on, and waits at its next checkpoint"
    store.deny()
    asyncio.run(mirror.room())
    assert "checkpoints/step-000010/run.json" in there(store)
    assert news(mirror) == [f"{URL} takes the run's files again"]


def test_storage_that_turns_read_only_ends_the_run_at_its_next_checkpoint_by_name(
    mirror: RunMirror, folder: Path, store: ObjectStore
) -> None:
    eventually(lambda: "events.jsonl" in there(store))
    store.deny("s3:PutObject")
    asyncio.run(mirror.room())  # the checkpoint after the failure is made, since the one before it is there
    path = checkpoint(folder, 10)
    mirror.published(path, keep=2)
    began = time.monotonic()
    with pytest.raises(RunError) as error:
        asyncio.run(mirror.room())
    assert HASTY.patience_s <= time.monotonic() - began < HASTY.patience_s + 3
    said = str(error.value)
    assert URL in said
    assert "no permission" in said
    assert f"all of the run is in {folder}" in said
    assert f"`paceline resume {folder}`" in said
    assert "\n" not in said
    assert (path / "run.json").is_file()
    with pytest.raises(RunError, match="takes nothing"):
        mirror.finish(Progress("test"), 0.5)


def test_another_process_that_goes_on_there_ends_this_one(mirror: RunMirror, folder: Path) -> None:
    eventually(lambda: mirror._sent)
    other = begun(folder)
    eventually(lambda: mirror._taken, seconds=60)
    with pytest.raises(RunError, match="another process goes on with") as error:
        mirror.check()
    assert str(folder) in str(error.value)
    with pytest.raises(RunError, match="another process goes on with"):
        mirror.finish(Progress("test"))
    other.finish(Progress("test"))


def test_a_run_that_does_not_begin_leaves_nothing(folder: Path, store: ObjectStore) -> None:
    mirror = begun(folder, HASTY.model_copy(update={"sync_every_s": 60.0}))
    assert store.names("runs/mine/") == [OWNER]
    mirror.withdraw()
    assert store.names() == []


def test_a_server_that_dies_costs_a_warning_and_then_the_run(folder: Path, store: ObjectStore) -> None:
    mirror = begun(folder)
    eventually(lambda: len(there(store)) == 2)
    store.kill()
    try:
        mirror.published(checkpoint(folder, 10), keep=2)
        eventually(lambda: mirror._trouble is not None)
        (told,) = news(mirror)
        assert "it cannot be reached; the run goes on" in told
        with pytest.raises(RunError, match=r"takes nothing for \d+ s now \(it cannot be reached\)"):
            mirror.finish(Progress("test"), 1.0)
    finally:
        store.start_again()
