"""The folder that a run leaves behind; what lies where in it is said in `orchestrator.run_layout`.

Invariants: it is made once, for this run; a folder that exists already is refused, unless the run goes on in it from a
checkpoint: then what its logs hold beyond the checkpoint's marks is taken off, because it will happen again. One
process at a time writes in it. Files that are read as a whole (config.yaml, summary.json, trace.json) appear complete
or not at all; the .jsonl files hold whole lines at any time. All of it is strict JSON: a
number that is not finite is null. A disk that refuses to take more ends the run with one
line.
"""

import fcntl
import itertools
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from orchestrator.disk import disk_errors
from orchestrator.errors import SettingError
from orchestrator.run_layout import (
    CHECKPOINTS,
    CONFIG,
    ENDS,
    EVENTS,
    FIRST_DRAFTER,
    METRICS,
    MODEL,
    OPTIMIZER,
    SUMMARY,
    TRAINED_DRAFTER,
    next_aside,
)
from orchestrator.strict_json import strict_json


@dataclass(frozen=True, slots=True)
class LogMarks:
    """Length of the logs when a checkpoint was made, bytes."""

    metrics: int
    events: int


class RunDirectory:
    """Args:
    path: the folder to make.
    config: the resolved recipe as YAML.
    since: go on in a folder that exists, from this point of its logs.

    Raises:
        SettingError: it exists already or cannot be made; or it is to go on and cannot, because another process writes
            in it or its logs end before the point.
    """

    def __init__(self, path: Path, config: str, *, since: LogMarks | None = None) -> None:
        if since is None:
            _make(path)
        self.path, self._made_now = path.resolve(), since is None
        self._metrics = self._open(METRICS)
        self._events = self._open(EVENTS)
        self._claim()
        if since is not None:
            _cut_back({self._metrics: since.metrics, self._events: since.events})
        self._whole(CONFIG, config.rstrip("\n"))

    def discard(self) -> None:
        """Take the folder away: the run does not begin. One that would have gone on keeps what it has."""
        self.close()
        if self._made_now:
            shutil.rmtree(self.path)

    @property
    def model(self) -> Path:
        """The trained model, a Hugging Face checkpoint."""
        return self.path / MODEL

    @property
    def optimizer(self) -> Path:
        """The moments with which the training of the model ended, in a run that keeps them."""
        return self.path / OPTIMIZER

    @property
    def drafter(self) -> Path:
        """The trained drafter, as vLLM loads it."""
        return self.path / TRAINED_DRAFTER

    @property
    def first_drafter(self) -> Path:
        """The drafter with which the run begins."""
        return self.path / FIRST_DRAFTER

    @property
    def checkpoints(self) -> Path:
        """What the run can be resumed from; see `orchestrator.checkpoints`."""
        return self.path / CHECKPOINTS

    def set_aside(self) -> None:
        """What the end of the run wrote before it went on: it will end again."""
        for end in ENDS:
            if (self.path / end).exists():
                (self.path / end).rename(self.path / next_aside(end, taken=lambda name: (self.path / name).exists()))

    def marks(self) -> LogMarks:
        """The logs' length now; up to there they outlive a crash of the machine."""
        with disk_errors(str(self.path)):
            return LogMarks(_length_on_disk(self._metrics), _length_on_disk(self._events))

    def metrics(self, row: Mapping[str, object]) -> None:
        with disk_errors(str(self.path)):
            _write_line(self._metrics, row)

    def event(self, row: Mapping[str, object]) -> None:
        with disk_errors(str(self.path)):
            _write_line(self._events, row)

    def samples(self, name: str, rows: list[dict[str, object]]) -> None:
        path = self.path / "samples" / f"{name}.jsonl"
        with disk_errors(str(path)):
            path.parent.mkdir(exist_ok=True)  # a run that was fetched to go on has none
            with path.open("w", encoding="utf-8") as file:
                for row in rows:
                    _write_line(file, row)

    def summary(self, content: Mapping[str, object]) -> None:
        """Write summary.json, whole or not at all."""
        self._whole(SUMMARY, strict_json(content, indent=2))

    def trace(self, content: Mapping[str, object]) -> None:
        """Write trace.json, whole or not at all."""
        self._whole("trace.json", strict_json(content))

    def _whole(self, name: str, text: str) -> None:
        temporary = self.path / f".{name}"
        with disk_errors(str(self.path)):
            temporary.write_text(text + "\n", encoding="utf-8")
            os.replace(temporary, self.path / name)

    def close(self) -> None:
        self._metrics.close()
        self._events.close()

    def _open(self, name: str) -> TextIO:
        try:
            return (self.path / name).open("a", encoding="utf-8", buffering=1)
        except OSError as error:
            raise SettingError("run_dir", f"{self.path / name}: {error.strerror}", "mend the folder") from None

    def _claim(self) -> None:
        """The lock goes with the process, however that ends."""
        try:
            fcntl.flock(self._events, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.close()
            raise SettingError("run_dir", f"{self.path} is at work in another process", "stop that run first") from None


def moved_aside(folder: Path) -> Path:
    """Make room for a run that begins anew; returns where what an earlier attempt left lies now.

    Raises:
        SettingError: a process is at work in it, or it cannot be moved.
    """
    aside = next(
        name for n in itertools.count(1) if not (name := folder.with_name(f"{folder.name}.attempt-{n}")).exists()
    )
    try:
        if (events := folder / EVENTS).is_file():
            with events.open("a", encoding="utf-8") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return folder.rename(aside)
    except BlockingIOError:
        raise SettingError("run_dir", f"{folder} is at work in another process", "stop that run first") from None
    except OSError as error:
        raise SettingError("run_dir", f"{folder}: {error.strerror}", "move it away, or choose another") from None


def check_free(path: Path) -> None:
    """Raises: SettingError: something is there already."""
    if path.exists():
        raise _taken(path)


def _taken(path: Path) -> SettingError:
    fix = "choose another run_dir, move it away, or go on with it by `paceline resume`"
    return SettingError("run_dir", f"{path} exists already and is never overwritten", fix)


def _make(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=False)
        (path / "samples").mkdir()
    except FileExistsError:
        raise _taken(path) from None
    except OSError as error:
        raise SettingError("run_dir", f"{path}: {error.strerror}", "choose a folder that can be written") from None


def _cut_back(lengths: Mapping[TextIO, int]) -> None:
    """Raises: SettingError: a file is shorter; all are as they were."""
    for file, length in lengths.items():
        if os.fstat(file.fileno()).st_size < length:
            raise SettingError("RUN", f"{file.name} is shorter than its checkpoint says", "resume from an older --step")
    for file, length in lengths.items():
        os.ftruncate(file.fileno(), length)


def _length_on_disk(file: TextIO) -> int:
    file.flush()
    os.fsync(file.fileno())
    return os.fstat(file.fileno()).st_size


def _write_line(file: TextIO, row: Mapping[str, object]) -> None:
    file.write(strict_json(row, ascii_only=False) + "\n")
