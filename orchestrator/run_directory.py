"""The folder that a run leaves behind, and the only module that knows its layout.

Invariant: it is made once, for this run; a folder that exists already is refused. Files that are read as a whole
(summary.json, trace.json) appear complete or not at all; the .jsonl files hold whole lines at any time. A disk that
refuses to take more ends the run with one line.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from orchestrator.errors import RunError, SettingError

MODEL, TRAINED_DRAFTER = "model", "drafter/trained"
"""Where a finished run has them."""


class RunDirectory:
    """Args:
    path: the folder to make.
    config: the resolved recipe as YAML.

    Raises:
        SettingError: it exists already or cannot be made.
    """

    def __init__(self, path: Path, config: str) -> None:
        try:
            path.mkdir(parents=True, exist_ok=False)
        except FileExistsError:
            raise SettingError(
                "run_dir", f"{path} exists already and is never overwritten", "choose another run_dir or move it away"
            ) from None
        except OSError as error:
            raise SettingError("run_dir", f"{path}: {error.strerror}", "choose a folder that can be written") from None
        self.path = path.resolve()
        (self.path / "config.yaml").write_text(config, encoding="utf-8")
        (self.path / "samples").mkdir()
        self._metrics = self._open("metrics.jsonl")
        self._events = self._open("events.jsonl")

    def discard(self) -> None:
        """Take the folder away: the run does not begin."""
        self.close()
        shutil.rmtree(self.path)

    @property
    def model(self) -> Path:
        """The trained model, a Hugging Face checkpoint."""
        return self.path / MODEL

    @property
    def drafter(self) -> Path:
        """The trained drafter, as vLLM loads it."""
        return self.path / TRAINED_DRAFTER

    @property
    def first_drafter(self) -> Path:
        """The drafter with which the run begins."""
        return self.path / "drafter" / "first"

    def checkpoint(self, step: int) -> Path:
        return self.path / "checkpoints" / f"step-{step:06d}"

    def metrics(self, row: Mapping[str, object]) -> None:
        with _disk_errors(self.path):
            _write_line(self._metrics, row)

    def event(self, row: Mapping[str, object]) -> None:
        with _disk_errors(self.path):
            _write_line(self._events, row)

    def samples(self, name: str, rows: list[dict[str, object]]) -> None:
        path = self.path / "samples" / f"{name}.jsonl"
        with _disk_errors(path), path.open("w", encoding="utf-8") as file:
            for row in rows:
                _write_line(file, row)

    def summary(self, content: Mapping[str, object]) -> None:
        """Write summary.json, whole or not at all."""
        self._whole("summary.json", json.dumps(content, indent=2))

    def trace(self, content: Mapping[str, object]) -> None:
        """Write trace.json, whole or not at all."""
        self._whole("trace.json", json.dumps(content))

    def _whole(self, name: str, text: str) -> None:
        temporary = self.path / f".{name}"
        with _disk_errors(self.path):
            temporary.write_text(text + "\n", encoding="utf-8")
            os.replace(temporary, self.path / name)

    def close(self) -> None:
        self._metrics.close()
        self._events.close()

    def _open(self, name: str) -> TextIO:
        return (self.path / name).open("w", encoding="utf-8", buffering=1)


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        fix = "free some space or set run_dir to another disk"
        raise RunError(f"{path} cannot be written: {error.strerror}", fix) from error


def _write_line(file: TextIO, row: Mapping[str, object]) -> None:
    file.write(json.dumps(row, ensure_ascii=False) + "\n")
