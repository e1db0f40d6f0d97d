"""What a scoring child may not do: outlive its pool, take more memory than agreed, act on a model's text.

Some verifiers hand an answer to `eval` (sympy's parser and several reasoning-gym scorers do), so a model's text may
run as Python in the child. While such a verifier scores, an audit hook refuses to start processes, write files, and
open connections. That closes the doors that an answer could find by chance or by optimisation; it is no sandbox
against an adversary, who needs one of the operating system's.
"""

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_REFUSED = frozenset(("ctypes", "os", "pty", "resource", "shutil", "signal", "socket", "sqlite3", "subprocess"))
"""Families of audit events (https://docs.python.org/3/library/audit_events.html)."""
_HARMLESS = frozenset(("os.listdir", "os.scandir", "os.walk", "os.fwalk", "os.getxattr", "os.listxattr"))

_confined = False


def die_with_parent(parent_pid: int) -> None:
    """Ask the kernel to kill this process when the thread that started it ends (Linux; elsewhere the closed channel
    ends a child that waits). Exits at once where the parent is gone already."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        raise SystemExit(0)


def limit_memory(megabytes: int) -> None:
    """Let the address space grow by so many MiB from here on. No core is written when the process dies of it.

    Where the system does not say what is mapped (no /proc), the deadline alone bounds an answer.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    mapped = Path("/proc/self/statm")
    if mapped.exists():
        bytes_now = int(mapped.read_text().split()[0]) * resource.getpagesize()
        # The soft limit alone: a sandbox that this process starts sets its own, which may be higher.
        limit, ceiling = bytes_now + megabytes * 1024 * 1024, resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (limit if ceiling < 0 else min(limit, ceiling), ceiling))


def install_guard() -> None:
    """Watch this process for good; nothing is refused outside `confined`."""
    sys.addaudithook(_refuse)


@contextmanager
def confined() -> Iterator[None]:
    """Run a verifier on a model's text; what the guard refuses raises PermissionError inside."""
    global _confined
    _confined = True
    try:
        yield
    finally:
        _confined = False


def _refuse(event: str, arguments: tuple[object, ...]) -> None:
    if not _confined:
        return
    if event == "open":
        flags = arguments[2]
        if not (isinstance(flags, int) and flags & _WRITING):
            return
    elif event.partition(".")[0] not in _REFUSED or event in _HARMLESS:
        return
    raise PermissionError(f"an answer may not do this: {event}")
