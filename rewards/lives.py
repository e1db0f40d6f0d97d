"""A loaded process that has others live in its stead: each is a fork of it, and so loaded the moment it is born.

What hangs or dies is the fork; the next one is there within milliseconds, where loading the verifiers anew takes
seconds of a core. Linux alone can do this, and only a process without threads may be forked; elsewhere, and where a
user's module has started a thread, the process lives once and itself.

Invariants: one life at a time, told to the pool with its end of a socket of its own; a life's whole process group is
dead before its end is told; no life outlives this process, or this process the pool's end of the control socket.
"""

import os
import select
import signal
import socket
import struct
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from rewards.confinement import die_with_parent
from rewards.wire import Channel, ChannelClosedError, Reply

PID = struct.Struct("!I")
"""How a life is named on the control socket, by either side."""
_TASKS = Path("/proc/self/task")


def live(control: socket.socket, serve: Callable[[Channel], None]) -> None:
    """One life after another, until the pool is gone.

    Args:
        control: to each life its pid goes out with the socket to talk to it, and a `Reply` with how it ended; a pid
            coming in asks for its end.
        serve: a life: answers requests until it has to leave.
    """
    while True:
        ours, theirs = socket.socketpair()
        if not _may_fork():
            socket.send_fds(control, [PID.pack(os.getpid())], [theirs.fileno()])
            theirs.close()
            serve(Channel(ours))
            return
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            theirs.close()
            _be_born(parent, control, ours, serve)
        ours.close()
        socket.send_fds(control, [PID.pack(pid)], [theirs.fileno()])
        theirs.close()
        wanted = _outlive(control, pid)
        status = _end(pid)
        if not wanted:
            return
        Channel(control).send_reply(Reply("ended", reason=in_words(os.waitstatus_to_exitcode(status))))


def in_words(code: int) -> str:
    """How a process ended, by its exit code; negative for a signal."""
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"


def _may_fork() -> bool:
    alone = len(list(_TASKS.iterdir())) == 1 if _TASKS.exists() else False
    return alone and threading.active_count() == 1 and hasattr(os, "pidfd_open")


def _be_born(parent: int, control: socket.socket, ours: socket.socket, serve: Callable[[Channel], None]) -> NoReturn:
    """The fork: serves, and leaves without the farewells that are the first process's to say."""
    code = 1
    try:
        os.setsid()  # a group of its own: a kill takes whatever it started
        die_with_parent(parent)
        control.close()
        serve(Channel(ours))
        code = 0
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except ChannelClosedError:
        code = 0  # the pool is gone
    except BaseException:  # noqa: BLE001 - it ends here, and says why
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _outlive(control: socket.socket, pid: int) -> bool:
    """Wait until the life ends or the pool wants its end. Returns: whether the pool still wants another."""
    life = os.pidfd_open(pid)
    watched: list[socket.socket | int] = [control, life]
    try:
        while True:
            # No deadline: this process has nothing else to do, and dies with its parent.
            ready, _, _ = select.select(watched, [], [], None)
            if control in ready:
                asked = control.recv(PID.size)
                if len(asked) != PID.size:
                    return False
                if PID.unpack(asked) == (pid,):  # else one that has ended by itself meanwhile
                    return True
            else:
                return True
    finally:
        os.close(life)


def _end(pid: int) -> int:
    """Kill the life's group, and reap it: it keeps its number until then, so nobody else can be hit."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:  # it has not made its group yet
        os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]
