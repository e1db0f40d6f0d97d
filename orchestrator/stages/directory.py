"""The folder of a run of several stages, and the only module that knows its layout.

    RUN/config.yaml  RUN/summary.json  RUN/model -> the last stage's  RUN/stages/1-sft/ ... each a run directory

Invariants: a folder is only ever continued by the recipe that made it; a stage is complete when its summary says so and
its model is there; what an unfinished stage left is moved aside and never overwritten.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import yaml

from orchestrator.disk import disk_errors
from orchestrator.errors import SettingError
from orchestrator.run_directory import moved_aside
from orchestrator.run_layout import CONFIG, MODEL, SUMMARY
from orchestrator.stages.overlay import dotted, value_at
from orchestrator.strict_json import strict_json


class StagesDirectory:
    """Args:
    path: the folder, made now unless the same recipe has made it.
    config: the resolved recipe as YAML.

    Raises:
        SettingError: it holds something else, or cannot be made.
    """

    def __init__(self, path: Path, config: str) -> None:
        kept = path / CONFIG
        if kept.is_file():
            _check_same(path, kept, config)
        else:
            try:
                path.mkdir(parents=True, exist_ok=False)
                kept.write_text(config, encoding="utf-8")
            except FileExistsError:
                raise SettingError(
                    "run_dir", f"{path} exists and holds no run of stages", "choose another or move it away"
                ) from None
            except OSError as error:
                raise SettingError("run_dir", f"{path}: {error.strerror}", "choose a writable folder") from None
        self.path = path.resolve()

    def stage(self, number: int, name: str) -> Path:
        """Args: number: counted from 1."""
        return self.path / "stages" / f"{number}-{name}"

    def model(self, number: int, name: str) -> Path:
        """What the stage hands over."""
        return self.stage(number, name) / MODEL

    def finished(self, number: int, name: str) -> bool:
        return status_of(self.stage(number, name)) == "completed" and self.model(number, name).is_dir()

    def clear(self, number: int, name: str) -> Path | None:
        """Make room for a stage that begins; returns where what an earlier attempt left was moved, if it left any."""
        folder = self.stage(number, name)
        return moved_aside(folder) if folder.exists() else None

    def summary(self, content: Mapping[str, object]) -> None:
        """Write summary.json, whole or not at all."""
        draft = self.path / f".{SUMMARY}"
        with disk_errors(str(self.path)):
            draft.write_text(strict_json(content, indent=2) + "\n", encoding="utf-8")
            os.replace(draft, self.path / SUMMARY)

    def show_model(self, number: int, name: str) -> None:
        """Let `model` be this stage's."""
        draft = self.path / f".{MODEL}"
        draft.unlink(missing_ok=True)
        draft.symlink_to(self.model(number, name).relative_to(self.path))
        os.replace(draft, self.path / MODEL)


def summary_of(folder: Path) -> dict[str, object]:
    """The summary in a run directory; empty where there is none yet."""
    path = folder / SUMMARY
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def status_of(folder: Path) -> str | None:
    """How the run in a folder ended; None where it did not."""
    status = summary_of(folder).get("status")
    return None if status is None else str(status)


def _check_same(path: Path, kept: Path, config: str) -> None:
    """Raises: SettingError: the folder's recipe is another one; it names the first setting that differs."""
    old, new = (_by_stage(yaml.safe_load(text)) for text in (kept.read_text(encoding="utf-8"), config))
    for name in sorted({*dotted(old), *dotted(new)}):
        was, now = value_at(old, name), value_at(new, name)
        if was != now and not (isinstance(was, dict) and isinstance(now, dict)):
            reason = f"{path} holds a run of another recipe: {name} was {was!r} and is {now!r}"
            raise SettingError("run_dir", reason, "give the same recipe to go on with it, or choose another run_dir")


def _by_stage(tree: object) -> dict[str, object]:
    """The recipe without its place, its stages by name: so a difference has a name."""
    if not isinstance(tree, dict):
        return {}
    stages = tree.get("stages")
    named = {str(stage["name"]): stage for stage in stages} if isinstance(stages, list) else stages
    return {**{key: value for key, value in tree.items() if key not in ("run_dir", "stages")}, "stages": named}
