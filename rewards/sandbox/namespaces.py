"""Our own walls, for machines without bubblewrap: the same namespaces, built from Python, and the fastest of all.

What isolates is described in `rewards.sandbox.template`, which this starts once and asks for one sandbox per job.
Needs Linux 5.12.
"""

import marshal
import os
import select
import signal
import socket
import subprocess
from pathlib import Path

from rewards.sandbox import template
from rewards.sandbox.identity import NOBODY, Identity, identity
from rewards.sandbox.job import Job, Outcome, SandboxError
from rewards.sandbox.layout import DEVICES, PYTHON_OPTIONS, STDIN_LINK, WORK, layout, minimal_environment
from rewards.sandbox.supervise import outcomes

_ANSWER_S = 10.0
_END_S = 5.0
_ROOT = Path(template.__file__).parents[2]
_START = "import sys; sys.path.insert(0, {root!r}); from rewards.sandbox.template import main; sys.path.pop(0); main()"


class Namespaces:
    """Raises: SandboxError, in `run`, where the kernel or a container's policy refuses the namespaces."""

    name = "namespaces"

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def run(self, job: Job) -> tuple[Outcome, ...]:
        who = identity()
        return outcomes(job, self._started(job, who), directory=WORK, uid=who.within, is_init=True)

    def close(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            self._process.kill()
            self._process.wait(_END_S)
            self._process = None

    def _started(self, job: Job, who: Identity) -> "_ForkedLife":
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._start()
        assert self._control is not None
        to_job, report = os.pipe(), os.pipe()
        try:
            socket.send_fds(self._control, [_plan(job, who)], [to_job[0], report[1]])
            answer, handles, _, _ = socket.recv_fds(self._control, 64, 1)
            pid = int(answer)
        except (OSError, ValueError) as error:
            self.close()
            os.close(to_job[1])
            os.close(report[0])
            raise SandboxError(f"the template process is gone: {error}") from error
        finally:
            os.close(to_job[0])
            os.close(report[1])
        return _ForkedLife(pid, handles[0], to_job[1], report[0])

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        ours.settimeout(_ANSWER_S)
        with theirs:
            command = [layout().python, *PYTHON_OPTIONS, "-c", _START.format(root=str(_ROOT))]
            self._process = subprocess.Popen(
                [*command, str(theirs.fileno()), str(os.getpid())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=minimal_environment(),
                cwd="/",
            )
        self._control = ours


class _ForkedLife:
    """See `rewards.sandbox.supervise.Life`."""

    def __init__(self, pid: int, handle: int, job_fd: int, report_fd: int) -> None:
        self.pid, self.job_fd, self.report_fd = pid, job_fd, report_fd
        self._handle = handle

    def kill(self) -> None:
        signal.pidfd_send_signal(self._handle, signal.SIGKILL)

    def end(self) -> str:
        if not self._has_ended():
            self.kill()
            self._has_ended()
        os.close(self._handle)
        return ""

    def _has_ended(self) -> bool:
        return bool(select.select([self._handle], [], [], _END_S)[0])


def _plan(job: Job, who: Identity) -> bytes:
    """`rewards.sandbox.template.Plan`."""
    seen = layout()
    return marshal.dumps(
        {
            "read_only": seen.read_only,
            "parents": seen.parents,
            "links": (*seen.links, ("/dev/stdin", STDIN_LINK)),
            "devices": DEVICES,
            "work": WORK,
            "file_mb": job.limits.file_mb,
            "builds_as_root": who.builds_as_root,
            "before": who.before,
            "nobody": NOBODY,
        }
    )
