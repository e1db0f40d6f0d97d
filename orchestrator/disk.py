"""The disk under a run: where there is one yet, and what is said when it refuses a write."""

import errno
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from orchestrator.errors import RunError

_FIXES: Mapping[int, str] = {
    errno.EROFS: "the disk has turned read-only: mend it and go on with `paceline resume`, or set run_dir to another",
    errno.EACCES: "give this user the right to write there, or set run_dir to another place",
    errno.EPERM: "give this user the right to write there, or set run_dir to another place",
    errno.EIO: "the disk has failed: go on from the last checkpoint with run_dir on another",
}


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
        fix = _FIXES.get(error.errno or 0, "free some space or set run_dir to another disk")
        raise RunError(f"{what} cannot be written: {error.strerror}", fix) from error
