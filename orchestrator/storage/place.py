"""Where a run works, and who keeps a copy of it: a folder of this machine, alone or before a place in storage.

A run whose `run_dir` is remote works in a folder here, since logs grow line by line and shards are written by several
ranks, and a mirror carries it over. What begins is refused before anything is written; what ends is copied to its end.
"""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from orchestrator.errors import PacelineError, RunError, SettingError
from orchestrator.progress import Progress
from orchestrator.run_layout import CHECKPOINTS, CONFIG, checkpoint_steps
from orchestrator.storage.address import check_address, is_remote, local_path
from orchestrator.storage.fault import StorageFault
from orchestrator.storage.mirror import NO_MIRROR, Mirror
from orchestrator.storage.remote_folder import RemoteFolder
from orchestrator.storage.run_mirror import RunMirror
from orchestrator.storage.settings import StorageSettings

RUNS = "runs"
CLOSE_S = 15.0
"""How long a run that failed waits, at its end, for storage that takes nothing."""


@dataclass(frozen=True, slots=True)
class RunPlace:
    """Attributes:
    folder: that a run works in.
    """

    folder: Path
    mirror: Mirror = NO_MIRROR

    def at(self, folder: Path) -> "RunPlace":
        """Of a stage, whose folder lies in this one."""
        return replace(self, folder=folder)


@contextmanager
def new_place(run_dir: str | None, name: str, storage: StorageSettings, progress: Progress) -> Iterator[RunPlace]:
    """Where a run begins.

    Args:
        run_dir: a folder or an address; None is a folder in runs/.

    Raises:
        SettingError: the place is taken or cannot be written.
        RunError: the rest could not be copied there.
    """
    if run_dir is None or not is_remote(run_dir):
        yield RunPlace(Path(RUNS) / _stamped(name) if run_dir is None else local_path(run_dir))
        return
    remote = connect("run_dir", run_dir, storage, progress)
    with speaking_of("run_dir", run_dir):
        if remote.has(CONFIG):
            raise SettingError(
                "run_dir",
                f"{run_dir} holds a run already and is never overwritten",
                f"choose another run_dir, or go on with it by `paceline resume {run_dir}`",
            )
    with _mirrored(working_folder(run_dir, storage), remote, storage, progress) as place:
        yield place


@contextmanager
def kept_place(
    run_dir: str | None, folder: Path, storage: StorageSettings, progress: Progress, *, fetched: bool = False
) -> Iterator[RunPlace]:
    """Where a run goes on that has left `folder` here.

    Args:
        fetched: from its place in storage; else the folder must not be behind that.

    Raises:
        SettingError: its place in storage cannot be written, or is further than the folder.
        RunError: the rest could not be copied there.
    """
    if run_dir is None or not is_remote(run_dir):
        yield RunPlace(folder)
        return
    remote = connect("run_dir", run_dir, storage, progress)
    with speaking_of("run_dir", run_dir):
        there = checkpoint_steps(remote.entries(CHECKPOINTS), CHECKPOINTS)
    here = checkpoint_steps(_files_of_checkpoints(folder), CHECKPOINTS)
    if not fetched and max(there, default=-1) > max(here, default=-1):
        raise SettingError(
            "run_dir",
            f"{run_dir} has a checkpoint of step {max(there)}, and {folder} none of it",
            f"go on with that by `paceline resume {run_dir}`, or let this one go on alone with run_dir={folder}",
        )
    with _mirrored(folder, remote, storage, progress) as place:
        if here and max(here) not in there:
            place.mirror.published(folder / here[max(here)], keep=max(1, len(here)))
        yield place


def connect(setting: str, url: str, storage: StorageSettings, progress: Progress) -> RemoteFolder:
    """Raises: SettingError: the address holds a secret, or there is no way to it."""
    check_address(setting, url)
    progress.phase(f"connecting to {url}")
    with speaking_of(setting, url):
        return RemoteFolder(url, storage.timeout_s)


@contextmanager
def speaking_of(setting: str, url: str) -> Iterator[None]:
    """Inside, a fault of storage is one of this setting."""
    try:
        yield
    except StorageFault as fault:
        raise SettingError(setting, f"{url}: {fault.reason}", fault.fix) from fault


def working_folder(url: str, storage: StorageSettings) -> Path:
    """One that does not exist yet, for the run of this place."""
    root = Path(storage.working_dir or RUNS).expanduser()
    first = root / _stamped(url.rstrip("/").rpartition("/")[2] or "run")
    others = (first.with_name(f"{first.name}-{number}") for number in itertools.count(2))
    return next(folder for folder in itertools.chain([first], others) if not folder.exists())


@contextmanager
def _mirrored(folder: Path, remote: RemoteFolder, storage: StorageSettings, progress: Progress) -> Iterator[RunPlace]:
    mirror = RunMirror(folder, remote, storage)
    with speaking_of("run_dir", remote.url):
        mirror.begin()
    progress.say(f"the run works in {folder} and is copied to {remote.url}")
    try:
        yield RunPlace(folder, mirror)
    except SettingError:  # nothing began
        with suppress(StorageFault):
            mirror.withdraw()
        raise
    except PacelineError:
        try:
            mirror.finish(progress, CLOSE_S)
        except RunError as rest:
            progress.warn(str(rest))
        raise
    try:
        mirror.finish(progress)
    except KeyboardInterrupt:
        reason = f"stopped while the rest was copied to {remote.url}; {folder} holds all of the run"
        raise RunError(reason, f"copy it yourself, or go on with `paceline resume {folder}`") from None


def _files_of_checkpoints(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in (folder / CHECKPOINTS).glob("step-*/*")]


def _stamped(name: str) -> str:
    return f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
