"""Runs inside a sandbox and prints, line by line, what it managed that no program there may; then "end".

`GIVEN` is written above this text: a file of the host, a variable of its environment, a process of it, the limits.
"""

import ctypes
import errno
import os
import signal

CANARY_FILE, CANARY_VARIABLE, HOST_PID, LIMITS = GIVEN  # type: ignore[name-defined]  # noqa: F821
MIB = 1 << 20
libc = ctypes.CDLL(None, use_errno=True)


def reads_the_host() -> bool:
    open(CANARY_FILE).close()
    return True


def writes_to_the_root() -> bool:
    for directory in ("/", "/usr", "/dev", "/etc"):
        try:
            os.close(os.open(f"{directory}/.written", os.O_CREAT | os.O_WRONLY))
        except OSError:
            continue
        return True
    return False


def sees_processes() -> bool:
    return os.path.exists("/proc/self")


def signals_the_host() -> bool:
    os.kill(HOST_PID, 0)
    return HOST_PID > 8  # a small number may be one of this sandbox's own


def opens_a_socket() -> bool:
    return libc.socket(2, 1, 0) >= 0


def makes_namespaces() -> bool:
    return libc.unshare(0x10000000) == 0 or libc.unshare(0x00020000) == 0


def traces() -> bool:
    return libc.ptrace(0, 0, 0, 0) == 0


def is_root() -> bool:
    return os.getuid() == 0 or os.geteuid() == 0


def may_gain_privileges() -> bool:
    return libc.prctl(39, 0, 0, 0, 0) != 1 or libc.prctl(21, 0, 0, 0, 0) != 2


def has_more_memory() -> bool:
    try:
        bytearray((LIMITS["memory_mb"] + 16) * MIB)
    except MemoryError:
        return False
    return True


def has_more_disk() -> bool:
    """Two files, so that the limit of one file alone does not pass for a limit of all."""
    written = 0
    for name in ("one", "two"):
        with open(name, "wb", buffering=0) as file:
            for _ in range(LIMITS["file_mb"]):
                try:
                    written += file.write(bytes(MIB * 3 // 4))
                except OSError as error:
                    if error.errno not in (errno.ENOSPC, errno.EFBIG):
                        raise
    os.unlink("one")
    os.unlink("two")
    return written > LIMITS["file_mb"] * MIB


def has_more_processes() -> bool:
    """The first process of the sandbox and this one count, too."""
    born = []
    try:
        for _ in range(LIMITS["processes"] + 2):
            pid = os.fork()
            if pid == 0:
                signal.pause()
            born.append(pid)
    except BlockingIOError:
        return False
    finally:
        for pid in born:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    return True


def sees_the_environment() -> bool:
    return CANARY_VARIABLE in os.environ


for attempt in (
    reads_the_host,
    writes_to_the_root,
    sees_processes,
    signals_the_host,
    opens_a_socket,
    makes_namespaces,
    traces,
    is_root,
    may_gain_privileges,
    has_more_memory,
    has_more_disk,
    has_more_processes,
    sees_the_environment,
):
    try:
        managed = attempt()
    except OSError:
        managed = False
    if managed:
        print(attempt.__name__)
print("end")
