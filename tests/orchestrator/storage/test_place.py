"""Where a run may begin and go on, and what is fetched for it: refused in one line, before anything is written."""

import sys
from pathlib import Path

import fsspec
import httpx
import pytest

from orchestrator.errors import RunError, SettingError
from orchestrator.progress import Progress
from orchestrator.storage.fetch import (
    Found,
    fetch_data,
    fetch_model,
    fetch_run,
    move_aside_there,
    readable_run,
    what_is_there,
)
from orchestrator.storage.place import kept_place, new_place
from orchestrator.storage.settings import StorageSettings
from tests.object_store import BUCKET, KEYS, ObjectStore

PLACE = f"s3://{BUCKET}/runs/mine"
QUIET = Progress("test")


@pytest.fixture
def settings(tmp_path: Path) -> StorageSettings:
    return StorageSettings(working_dir=str(tmp_path / "runs"), timeout_s=30, patience_s=3, sync_every_s=60)


def put(store: ObjectStore, **files: str) -> None:
    """Files of the run by name, `__` for a slash and `_json` for its ending."""
    for name, content in files.items():
        store.client.put_object(Bucket=BUCKET, Key=f"runs/mine/{name}", Body=content.encode())


def refusal(run_dir: str, settings: StorageSettings) -> str:
    with pytest.raises(SettingError) as error, new_place(run_dir, "mine", settings, QUIET):
        pytest.fail("it began")
    said = str(error.value)
    assert "\n" not in said
    assert said.startswith(f"run_dir: {run_dir}")
    assert not Path(str(settings.working_dir)).exists()
    return said


def test_a_folder_is_taken_as_it_is_and_a_run_without_one_gets_one_by_its_name(settings: StorageSettings) -> None:
    for run_dir, folder in (("runs/x", Path("runs/x")), ("file:///mnt/nfs/x", Path("/mnt/nfs/x"))):
        with new_place(run_dir, "mine", settings, QUIET) as place:
            assert place.folder == folder
    with new_place(None, "mine", settings, QUIET) as place:
        assert place.folder.parent == Path("runs")
        assert place.folder.name.startswith("mine-")


def test_a_run_in_storage_works_in_a_new_folder_here_and_is_copied(
    store: ObjectStore, settings: StorageSettings
) -> None:
    with new_place(PLACE, "name", settings, QUIET) as place:
        assert place.folder.parent == Path(str(settings.working_dir))
        place.folder.mkdir(parents=True)
        (place.folder / "config.yaml").write_text("name: name\n")
    assert store.read("runs/mine/config.yaml") == b"name: name\n"
    assert "holds a run already and is never overwritten" in refusal_of_taken(settings)
    (place.folder / "summary.json").write_text("{}")
    with pytest.raises(RunError, match="it broke"), kept_place(PLACE, place.folder, settings, QUIET):
        raise RunError("it broke", "look")
    assert store.read("runs/mine/summary.json") == b"{}"


def refusal_of_taken(settings: StorageSettings) -> str:
    with pytest.raises(SettingError) as error, new_place(PLACE, "name", settings, QUIET):
        pytest.fail("it began")
    return str(error.value)


def test_a_folder_that_is_behind_its_place_does_not_go_on(
    store: ObjectStore, settings: StorageSettings, tmp_path: Path
) -> None:
    put(store, **{"config.yaml": "a: 1", "checkpoints/step-000020/run.json": "{}"})
    (tmp_path / "old" / "checkpoints" / "step-000010").mkdir(parents=True)
    (tmp_path / "old" / "checkpoints" / "step-000010" / "run.json").write_text("{}")
    with (
        pytest.raises(SettingError, match="has a checkpoint of step 20") as error,
        kept_place(PLACE, tmp_path / "old", settings, QUIET),
    ):
        pytest.fail("it began")
    assert f"`paceline resume {PLACE}`" in str(error.value)
    with kept_place(PLACE, tmp_path / "old", settings, QUIET, fetched=True) as place:  # by --step 10
        assert place.folder == tmp_path / "old"


def test_a_bucket_that_is_not_there(store: ObjectStore, settings: StorageSettings) -> None:
    said = refusal("s3://no-such-shelf/runs/x", settings)
    assert "the bucket does not exist; make it, or correct the address" in said


def test_no_credentials(store: ObjectStore, settings: StorageSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", "/nonexistent")
    assert "there are no credentials; set AWS_ACCESS_KEY_ID" in refusal(PLACE, settings)


@pytest.mark.parametrize("action", ["s3:PutObject", "s3:GetObject", "s3:DeleteObject"])
def test_no_permission(store: ObjectStore, settings: StorageSettings, action: str) -> None:
    store.deny(action)
    assert "these credentials have no permission; allow these credentials to list" in refusal(PLACE, settings)


def test_keys_that_are_not_known(store: ObjectStore, settings: StorageSettings) -> None:
    httpx.post(f"{store.endpoint}/moto-api/reset-auth", content=b"0", timeout=10)
    try:
        said = refusal(PLACE, settings)
    finally:
        httpx.post(f"{store.endpoint}/moto-api/reset-auth", content=b"inf", timeout=10)
    assert "the access key is not known there" in said or "no permission" in said
    assert not any(key in said for key in KEYS.values())


def test_a_server_that_is_not_there(
    store: ObjectStore, settings: StorageSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://me:hush@127.0.0.1:9")
    said = refusal(PLACE, settings)
    assert "it cannot be reached; look at the network, and at AWS_ENDPOINT_URL" in said
    assert "hush" not in said


def test_a_driver_that_is_not_installed(settings: StorageSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    drivers = sys.modules["fsspec.registry"]
    registered = {name: driver for name, driver in fsspec.registry.items() if name not in ("s3", "s3a")}
    monkeypatch.setattr(drivers, "_registry", registered)
    monkeypatch.setattr(drivers, "registry", registered)
    monkeypatch.setitem(sys.modules, "s3fs", None)
    assert "the package s3fs is not installed; install it with `pip install 'paceline[s3]'`" in refusal(PLACE, settings)
    assert "no driver for shelf:// is known" in refusal("shelf://x/y", settings)


def test_what_is_needed_to_go_on_is_fetched_and_nothing_else(store: ObjectStore, settings: StorageSettings) -> None:
    needed = {
        "config.yaml": "a: 1",
        "events.jsonl": "{}",
        "metrics.jsonl": "{}",
        "model/config.json": "{}",
        "drafter/first/model.safetensors": "d",
        "checkpoints/step-000020/run.json": "{}",
        "checkpoints/step-000020/learner/.metadata": "m",
        "checkpoints/step-000020/drafter/config.json": "d",
    }
    rest = {
        "model/model.safetensors": "big",
        "samples/step-000001.jsonl": "{}",
        "checkpoints/step-000020/model/model.safetensors": "big",
        "checkpoints/step-000010/run.json": "{}",
        "checkpoints/step-000030/learner/.metadata": "its card never came",
    }
    put(store, **needed, **rest)
    folder = fetch_run(PLACE, None, settings, QUIET)
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == set(needed)
    with pytest.raises(SettingError, match=r"no checkpoint of step 30; there are: 10, 20"):
        fetch_run(PLACE, 30, settings, QUIET)
    assert (fetch_run(PLACE, 10, settings, QUIET) / "checkpoints" / "step-000010" / "run.json").is_file()
    with readable_run(PLACE, QUIET) as read:
        assert {path.name for path in read.rglob("*") if path.is_file()} == {
            "config.yaml",
            "events.jsonl",
            "metrics.jsonl",
        }
    assert not read.exists()


def test_a_place_without_a_run_or_a_checkpoint_is_one_line(store: ObjectStore, settings: StorageSettings) -> None:
    with pytest.raises(SettingError, match=r"RUN: s3://\S+ holds no run; give the run_dir of a run"):
        fetch_run(PLACE, None, settings, QUIET)
    with pytest.raises(SettingError, match="holds no run"), readable_run(PLACE, QUIET):
        pytest.fail("there is none")
    put(store, **{"config.yaml": "a: 1"})
    with pytest.raises(SettingError, match="has no checkpoint to resume from; set trainer"):
        fetch_run(PLACE, None, settings, QUIET)


def test_models_and_data_are_cached_until_they_change_there(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PACELINE_CACHE", str(tmp_path / "cache"))
    put(store, **{"config.json": "{}", "model.safetensors": "one", "notes.md": "no part of a model"})
    first = fetch_model("model", PLACE, QUIET)
    assert sorted(path.name for path in first.iterdir()) == ["config.json", "model.safetensors"]
    assert fetch_model("model", PLACE, QUIET) == first
    put(store, **{"model.safetensors": "two"})
    second = fetch_model("model", PLACE, QUIET)
    assert (first / "model.safetensors").read_text() == "one"
    assert (second / "model.safetensors").read_text() == "two"
    put(store, **{"rows.jsonl": '{"question": 1}\n'})
    assert fetch_data("data.path", f"{PLACE}/rows.jsonl", (".jsonl",), QUIET).read_text() == '{"question": 1}\n'
    assert fetch_data("data.path", PLACE, (".jsonl", ".csv"), QUIET).is_dir()
    for address in (f"{PLACE}/none.jsonl", f"{PLACE}/deeper"):
        with pytest.raises(SettingError, match=r"data\.path: s3://\S+ (is not there|holds no)"):
            fetch_data("data.path", address, (".jsonl",), QUIET)
    with pytest.raises(SettingError, match=r"has no config\.json"):
        fetch_model("model", f"s3://{BUCKET}/runs", QUIET)
    assert not [path for path in (tmp_path / "cache" / "storage").iterdir() if path.name.startswith(".")]


def test_the_same_command_again_and_again_begins_and_begins_anew_there(
    store: ObjectStore, settings: StorageSettings
) -> None:
    assert what_is_there(PLACE, settings, QUIET) == Found(False, False, {})
    for attempt in ("1", "2"):
        put(store, **{"config.yaml": attempt, "samples/a.jsonl": "{}"})
        assert what_is_there(PLACE, settings, QUIET) == Found(True, False, {})
        assert move_aside_there(PLACE, settings, QUIET) == f"{PLACE}.attempt-{attempt}"
        assert store.names("runs/mine/") == []
        assert store.read(f"runs/mine.attempt-{attempt}/config.yaml").decode() == attempt
    put(store, **{"config.yaml": "a: 1", "checkpoints/step-000002/run.json": "{}", "summary.json": '{"steps": 2}'})
    assert what_is_there(PLACE, settings, QUIET) == Found(True, True, {"steps": 2})
