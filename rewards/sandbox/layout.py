"""What of the host a program in a sandbox can see: system programs and libraries and the Python standard library.

Everything is read-only. Not there: /proc, /sys, home directories, /etc but for what the linker and
`update-alternatives` need, /var, /run, the repository, the packages of the virtual environment.
"""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from rewards.sandbox.job import SandboxError

WORK = "/tmp"
"""The private directory of the runs, in every sandbox with a file system of its own."""
INSIDE = "/inside.py"
"""Where `rewards.sandbox.inside` stands in the sandbox."""
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
STDIN_LINK = f"{WORK}/.stdin"
"""To what /dev/stdin points: where `rewards.sandbox.inside` keeps a run's standard input."""

PYTHON_OPTIONS = ("-s", "-S", "-P", "-X", "utf8")
"""The standard library alone. Not `-I`: the environment is ours, and it makes the order of sets the same each time."""

_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64")
_ETC = ("/etc/alternatives", "/etc/ld.so.cache")


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths that are the same inside and outside; links and what they point to; the interpreter."""

    read_only: tuple[str, ...]
    links: tuple[tuple[str, str], ...]
    python: str

    @property
    def parents(self) -> tuple[str, ...]:
        """Directories to make for the paths, outer ones first."""
        above = {str(parent) for path in self.read_only for parent in Path(path).parents}
        return tuple(sorted(above - {"/"}))


@cache
def layout() -> Layout:
    """For this machine and this interpreter.

    Raises: SandboxError where the interpreter stands where everything else does too.
    """
    python, prefix = os.path.realpath(sys.executable), os.path.realpath(sys.base_prefix)
    own = tuple(dict.fromkeys(_outside_usr(prefix, str(Path(python).parent))))
    if any(path in ("/", "/home", "/root", "/tmp", "/etc", "/proc", "/dev") for path in own):
        raise SandboxError(f"the Python at {python} cannot be shown to a sandbox without all of {own[0]}")
    present = [path for path in (*_SYSTEM, *_ETC) if os.path.lexists(path)]
    links = tuple((path, os.readlink(path)) for path in present if os.path.islink(path))
    read_only = tuple(path for path in present if not os.path.islink(path))
    return Layout((*read_only, *own), links, python)


def minimal_environment() -> dict[str, str]:
    """All that a program in a sandbox learns from its environment."""
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin",
        "HOME": WORK,
        "TMPDIR": WORK,
        "LANG": "C.UTF-8",
        "PYTHONHASHSEED": "0",
    }


def _outside_usr(*paths: str) -> Iterator[str]:
    taken: list[str] = ["/usr"]
    for path in paths:
        if not any(path == other or path.startswith(other + "/") for other in taken):
            taken.append(path)
            yield path
