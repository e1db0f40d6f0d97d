"""A sandbox that is a program of its own: bubblewrap, nsjail, or the bare interpreter."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from rewards.sandbox.job import SandboxError

_END_S = 5.0
_LONGEST_WORDS = 300


class ProcessLife:
    """See `rewards.sandbox.supervise.Life`. It stays in the process group of its maker, and is killed with it.

    Args:
        user: as whom to start, for root alone; None: as ourselves.

    Raises: SandboxError where the program cannot be started.
    """

    def __init__(self, command: Sequence[str], environment: dict[str, str], *, user: int | None) -> None:
        self._words = os.memfd_create("stderr")
        job, report = os.pipe(), os.pipe()
        try:
            self._process = subprocess.Popen(
                command,
                stdin=job[0],
                stdout=report[1],
                stderr=self._words,
                env=environment,
                cwd="/",
                user=user,
                group=user,
                extra_groups=None if user is None else [],
            )
        except OSError as error:
            for fd in (job[1], report[0], self._words):
                os.close(fd)
            raise SandboxError(f"cannot start {command[0]}: {error.strerror}") from error
        finally:
            os.close(job[0])
            os.close(report[1])
        self.pid, self.job_fd, self.report_fd = self._process.pid, job[1], report[0]

    def kill(self) -> None:
        """The first process inside, with which all others end, and after which its launcher ends by itself."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        for child in children:
            with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
                os.kill(int(child), signal.SIGKILL)
        if not children:
            self._process.kill()

    def end(self) -> str:
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(_END_S)
        finally:
            said = os.pread(self._words, 1 << 16, 0).decode("utf-8", "replace")
            os.close(self._words)
        return " ".join(said.split())[-_LONGEST_WORDS:]
