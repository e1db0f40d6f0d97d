"""The disk under a run: where there is one yet, and what is said when it refuses a write."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.errors import RunError


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    folder = folder.absolute()
    return next(parent for parent in (folder, *folder.parents) if parent.exists())


@contextmanager
def disk_errors(what: str) -> Iterator[None]:
    """Inside, an error of the operating system is the run's: `what` cannot be written."""
    try:
        yield
    except OSError as error:
        fix = "free some space or set run_dir to another disk"
        raise RunError(f"{what} cannot be written: {error.strerror}", fix) from error
