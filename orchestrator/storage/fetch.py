"""Brings from storage what a command reads: a run to go on with or to report on, a model, a file of data.

Invariants: a folder that is fetched here appears whole or not at all; what is cached is told apart by address and
content, so a change there is seen.
"""

import hashlib
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from orchestrator.errors import RunError, SettingError
from orchestrator.progress import Progress
from orchestrator.run_layout import CHECKPOINTS, CONFIG, SUMMARY, checkpoint_steps
from orchestrator.storage.address import check_address, is_remote
from orchestrator.storage.place import connect, speaking_of, working_folder
from orchestrator.storage.remote_folder import Entry, RemoteFolder
from orchestrator.storage.selection import files_to_go_on, files_to_report
from orchestrator.storage.settings import StorageSettings

MODEL_FILES = (".json", ".safetensors", ".bin", ".model", ".txt", ".jinja")
RUN_FIX = "give the run_dir of a run, such as s3://bucket/runs/mine"


def fetch_run(url: str, step: int | None, storage: StorageSettings, progress: Progress) -> Path:
    """What is needed to go on with a run from its newest checkpoint, or that of a step, in a new folder here.

    Raises:
        SettingError: there is no such run or checkpoint, or no way to it.
    """
    remote = connect("RUN", url, storage, progress)
    with speaking_of("RUN", url):
        entries = remote.entries()
    _expect_run(url, entries)
    there = checkpoint_steps(entries, CHECKPOINTS)
    if not there or (step is not None and step not in there):
        known = ", ".join(map(str, there))
        reason = f"{url} has no checkpoint to resume from" if not there else f"{url} has no checkpoint of step {step}"
        fix = "set trainer.checkpoint_every in the next run" if not there else f"there are: {known}"
        raise SettingError("RUN" if step is None else "--step", reason, fix)
    chosen = there[max(there) if step is None else step]
    folder = working_folder(url, storage)
    progress.phase(f"fetching {url} to {folder}")
    with speaking_of("RUN", url):
        _fetch(remote, files_to_go_on(entries, chosen), entries, folder, progress)
    return folder


@dataclass(frozen=True, slots=True)
class Found:
    """What lies in a place: a run, with a checkpoint to go on from, and its summary, empty where it has none."""

    run: bool
    checkpoint: bool
    summary: Mapping[str, object]


def what_is_there(url: str, storage: StorageSettings, progress: Progress) -> Found:
    """Raises: SettingError: there is no way to it."""
    remote = connect("run_dir", url, storage, progress)
    with speaking_of("run_dir", url):
        entries = remote.entries()
        summary = json.loads(remote.read(SUMMARY)) if SUMMARY in entries else {}
    return Found(CONFIG in entries, bool(checkpoint_steps(entries, CHECKPOINTS)), summary)


def move_aside_there(url: str, storage: StorageSettings, progress: Progress) -> str:
    """Make room for a run that begins anew; returns where what an earlier attempt left lies now.

    Raises:
        SettingError: there is no way to it.
    """
    above, _, name = url.rstrip("/").rpartition("/")
    remote = connect("run_dir", above, storage, progress)
    with speaking_of("run_dir", url):
        names = (f"{name}.attempt-{number}" for number in itertools.count(1))
        aside = next(other for other in names if not remote.entries(other))
        for file in remote.entries(name):
            remote.move(file, aside + file.removeprefix(name))
    return f"{above}/{aside}"


def fetch_config(url: str, progress: Progress) -> dict[str, object]:
    """The recipe that a run left there, unchecked.

    Raises:
        SettingError: there is no run, or no way to it.
    """
    remote = connect("RUN", url, StorageSettings(), progress)
    with speaking_of("RUN", url):
        if not remote.has(CONFIG):
            raise SettingError("RUN", f"{url} holds no run", RUN_FIX)
        tree = yaml.safe_load(remote.read(CONFIG))
    if not isinstance(tree, dict):
        raise SettingError("RUN", f"{url}/{CONFIG} is no recipe", RUN_FIX)
    return tree


@contextmanager
def readable_run(run: str, progress: Progress) -> Iterator[Path]:
    """The folder of a run, with what a report reads; of one in storage a copy, as long as the context lasts.

    Raises:
        SettingError: there is no such run, or no way to it.
    """
    check_address("RUN", run)
    if not is_remote(run):
        yield Path(run)
        return
    remote = connect("RUN", run, StorageSettings(), progress)
    with speaking_of("RUN", run), tempfile.TemporaryDirectory(prefix="paceline-") as parent:
        entries = remote.entries()
        _expect_run(run, entries)
        folder = Path(parent) / "run"
        progress.phase(f"fetching the logs of {run}")
        _fetch(remote, files_to_report(entries), entries, folder, progress)
        yield folder


def fetch_model(setting: str, url: str, progress: Progress) -> Path:
    """A model's folder in the cache; fetched where it is not there as it is in storage.

    Raises:
        SettingError: there is no model, or no way to it.
    """
    remote = connect(setting, url, StorageSettings(), progress)
    with speaking_of(setting, url):
        entries = {name: entry for name, entry in remote.entries().items() if "/" not in name}
    if CONFIG_OF_MODEL not in entries:
        raise SettingError(setting, f"{url} has no {CONFIG_OF_MODEL}", "give the folder of a Hugging Face checkpoint")
    wanted = {name: entry for name, entry in entries.items() if name.endswith(MODEL_FILES)}
    return _cached(setting, remote, wanted, progress)


def fetch_data(setting: str, url: str, kinds: Sequence[str], progress: Progress) -> Path:
    """A file of data, or a folder of such files, in the cache.

    Args:
        kinds: endings of files of data.

    Raises:
        SettingError: nothing of these kinds is there, or there is no way to it.
    """
    single = url.endswith(tuple(kinds))
    remote = connect(setting, url.rpartition("/")[0] if single else url, StorageSettings(), progress)
    with speaking_of(setting, url):
        entries = remote.entries(url.rpartition("/")[2] if single else "")
    wanted = {name: entry for name, entry in entries.items() if "/" not in name and name.endswith(tuple(kinds))}
    if not wanted:
        fix = "correct the address, or give a local file"
        raise SettingError(setting, f"{url} is not there" if single else f"{url} holds no {', '.join(kinds)} file", fix)
    folder = _cached(setting, remote, wanted, progress)
    return folder / next(iter(wanted)) if single else folder


CONFIG_OF_MODEL = "config.json"


def cache() -> Path:
    """``$PACELINE_CACHE/storage``, or ``~/.cache/paceline/storage``."""
    given = os.environ.get("PACELINE_CACHE")
    return (Path(given).expanduser() if given else Path.home() / ".cache" / "paceline") / "storage"


def _cached(setting: str, remote: RemoteFolder, wanted: Mapping[str, Entry], progress: Progress) -> Path:
    content = "\n".join(f"{name} {entry.size} {entry.mark}" for name, entry in sorted(wanted.items()))
    folder = cache() / hashlib.sha256(f"{remote.url}\n{content}".encode()).hexdigest()[:20]
    if not folder.is_dir():
        progress.phase(f"fetching {remote.url} to {folder}")
        with speaking_of(setting, remote.url):
            _fetch(remote, sorted(wanted), wanted, folder, progress)
    return folder


def _fetch(
    remote: RemoteFolder, names: Sequence[str], entries: Mapping[str, Entry], folder: Path, progress: Progress
) -> None:
    """Make `folder` of these files, whole or not at all."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as draft:
            for number, name in enumerate(names):
                progress.part(number, len(names), name)
                local = Path(draft) / "whole" / name
                local.parent.mkdir(parents=True, exist_ok=True)
                remote.get(name, local)
                if local.stat().st_size != entries[name].size and not name.endswith(".jsonl"):  # logs may have grown
                    raise RunError(f"{remote.url}/{name} changed while it was fetched", "try again")
            if not folder.exists():  # another process may have been faster
                os.rename(Path(draft) / "whole", folder)
    except OSError as error:
        free = shutil.disk_usage(folder.parent).free / 2**20 if folder.parent.exists() else 0
        reason = f"{remote.url} cannot be fetched to {folder}: {error.strerror or error} ({free:,.0f} MiB are free)"
        raise RunError(reason, "free some space, or set storage.working_dir (a run) or PACELINE_CACHE") from error


def _expect_run(url: str, entries: Mapping[str, Entry]) -> None:
    if CONFIG not in entries:
        raise SettingError("RUN", f"{url} holds no run", RUN_FIX)
