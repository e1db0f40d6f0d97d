"""Which files of a run are copied, and in what order; which are fetched to go on with it, or to read it. Pure, but for
the walk through the run's folder."""

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from orchestrator.run_layout import (
    CHECKPOINTS,
    CONFIG,
    EVENTS,
    FIRST_DRAFTER,
    METRICS,
    MODEL,
    SUMMARY,
    is_set_aside,
)

KEPT_HIDDEN = (".metadata",)
"""Files with a hidden name that belong to what they lie beside; other hidden ones are drafts."""


def files_to_copy(folder: Path) -> list[str]:
    """All files of a run by name, but for checkpoints, drafts and what was set aside (that is renamed in its place).

    Summaries come last, the outermost at the very end: they say that the rest is there.
    """
    names = [name for name in _files(folder) if not is_set_aside(name)]
    return sorted(names, key=lambda name: (_is_summary(name), -name.count("/") if _is_summary(name) else 0, name))


def files_to_go_on(names: Collection[str], checkpoint: str) -> list[str]:
    """Of one run's files those without which it cannot go on from a checkpoint.

    Of its model the configuration alone is taken: it says that the run has come to an end.

    Args:
        checkpoint: its folder.
    """
    single = {CONFIG, METRICS, EVENTS, SUMMARY, "wandb/run-id", f"{MODEL}/config.json"}
    model = f"{checkpoint}/{MODEL}/"
    return sorted(
        name
        for name in names
        if name in single
        or name.startswith(f"{FIRST_DRAFTER}/")
        or (name.startswith(f"{checkpoint}/") and not name.startswith(model))
    )


def files_to_report(names: Collection[str]) -> list[str]:
    """Of the whole folder those that say how a run, or a run of several stages, went."""
    wanted = (CONFIG, METRICS, EVENTS, SUMMARY)
    return sorted(name for name in names if name.rpartition("/")[2] in wanted and CHECKPOINTS not in name.split("/"))


def _is_summary(name: str) -> bool:
    return name.rpartition("/")[2] == SUMMARY


def _files(folder: Path) -> Iterator[str]:
    """Links are left out: a place in storage has none."""
    for path, folders, files in os.walk(folder):
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and name != CHECKPOINTS and not os.path.islink(os.path.join(path, name))
        ]
        inside = Path(path).relative_to(folder)
        for name in files:
            if (not name.startswith(".") or name in KEPT_HIDDEN) and not os.path.islink(os.path.join(path, name)):
                yield (inside / name).as_posix()
