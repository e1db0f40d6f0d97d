"""How a process gives way to others on busy cores, and takes its place again.

Niceness says it, unless Linux groups what it schedules by session: then it counts inside of a session alone, and the
session has a niceness of its own (`man 7 sched`, the autogroup feature). Both are set, for processes that lead one.
"""

import os
from pathlib import Path

BACK = 10
"""So much nicer it becomes: it gets a tenth of what the others get, which still ends what is only slow."""


def step_back(pid: int) -> bool:
    """Let the process have what others leave. Returns: whether it does; it may have ended."""
    try:
        os.setpriority(os.PRIO_PROCESS, pid, os.getpriority(os.PRIO_PROCESS, 0) + BACK)
    except OSError:
        return False
    _nice_session(pid, BACK)
    return True


def come_back(pid: int) -> bool:
    """Let it have as much as this process again. Returns: whether it does; the system may keep that to root."""
    try:
        os.setpriority(os.PRIO_PROCESS, pid, os.getpriority(os.PRIO_PROCESS, 0))
    except OSError:
        return False
    return _nice_session(pid, 0)


def _nice_session(pid: int, niceness: int) -> bool:
    """Returns: whether it is so, which it also is where sessions have no niceness."""
    try:
        Path(f"/proc/{pid}/autogroup").write_text(str(niceness), encoding="ascii")
    except FileNotFoundError:
        return True
    except OSError:  # among others, where it was asked for twice within a tenth of a second
        return False
    return True
