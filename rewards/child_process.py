"""A child process of the rewards: started with a socket to its parent, and ended with all that it started."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

from rewards.lives import in_words

_REAP_TIMEOUT_S = 10.0
"""A killed process is gone in milliseconds, unless the machine swaps."""


def launched(program: str, *handed: int) -> tuple["subprocess.Popen[bytes]", socket.socket]:
    """This module as a program, given the number of its end of a socket, those of `handed`, and its parent's pid.

    Its parent, as far as the kernel is concerned, is the calling thread.

    Returns: the process, and our end of the socket. Raises: OSError where the system starts none.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        files = [theirs.fileno(), *handed]
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", program, *map(str, files), str(os.getpid())],
            pass_fds=files,
            stdin=subprocess.DEVNULL,
            env=_environment(),
            # A group of its own: Ctrl-C in the terminal is the parent's affair, and a kill takes grandchildren.
            start_new_session=True,
        )
    return process, ours


def end(process: "subprocess.Popen[bytes]", grace_s: float) -> str:
    """Kill it after a time in which it may end by itself. Returns: how it ended, in words."""
    until = time.monotonic() + grace_s
    while not _has_ended(process) and time.monotonic() < until:
        time.sleep(0.002)
    signal_group(process)
    try:
        code = process.wait(_REAP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return "does not die"
    return in_words(code)


def cpu_clock(pid: int) -> int:
    """The clock of Linux that counts what a process, its threads included, has computed; its number is made of the pid
    (CPUCLOCK_SCHED of `man 2 clock_getres`)."""
    return (~pid << 3) | 2


def signal_group(process: "subprocess.Popen[bytes]") -> None:
    """SIGKILL to the child and whatever it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _environment() -> dict[str, str]:
    """The parent's, with its import path: the child finds the packages and the user's modules that the parent does."""
    path: Sequence[str] = [entry or os.getcwd() for entry in sys.path]
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "MALLOC_ARENA_MAX"), "1")
    return {**os.environ, **one_thread, "PYTHONPATH": os.pathsep.join([*path, os.getcwd()]), "PYTHONHASHSEED": "0"}


def _has_ended(process: "subprocess.Popen[bytes]") -> bool:
    """Looks without reaping: until it is reaped, the process keeps its pid, and that names its group."""
    try:
        return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True  # a parent that ignores SIGCHLD has its children reaped by the kernel
