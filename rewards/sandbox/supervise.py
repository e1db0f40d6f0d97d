"""From outside: hands a job to a sandbox that has just been started, collects the reports, and keeps its time.

Invariant: `outcomes` returns or raises within the job's time, the start's and a grace, whatever happens inside; by then
the sandbox has ended or was killed. Nothing that comes out is trusted to be well formed.
"""

import marshal
import os
import select
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

from rewards.sandbox.inside import FAILED, READY, RECORD
from rewards.sandbox.job import SKIPPED, End, Job, Outcome, SandboxError
from rewards.sandbox.seccomp import syscall_filter

_START_S = 10.0
_GRACE_S = 3.0
"""For what happens inside between the last deadline and the last report: killing and reaping."""
_MEMORY_LOOK_S = 0.1
_PART = 1 << 18
_MIB = 1 << 20


class Life(Protocol):
    """A sandbox that was started and waits for its job: pipes to and from `rewards.sandbox.inside`.

    Attributes:
        pid: of the process whose descendants all others are.
        job_fd, report_fd: ours to close.
    """

    pid: int
    job_fd: int
    report_fd: int

    def kill(self) -> None: ...

    def end(self) -> str:
        """Wait until it is gone, killing it after a time; what the launcher had to say."""
        ...


def outcomes(job: Job, life: Life, *, directory: str, uid: int | None, is_init: bool) -> tuple[Outcome, ...]:
    """Raises: SandboxError where the sandbox did not come to run the job."""
    collected = _Reports(job)
    until, was_killed = time.monotonic() + _START_S, ""
    next_look = time.monotonic() + _MEMORY_LOOK_S
    try:
        unsent = memoryview(_written(job, directory, uid, is_init))
        os.set_blocking(life.job_fd, False)
        poller = select.poll()
        poller.register(life.job_fd, select.POLLOUT)
        poller.register(life.report_fd, select.POLLIN)
        while True:
            now = time.monotonic()
            if now > until:
                was_killed = f"no report within {_START_S:g} s"
            elif now > next_look:
                next_look = now + _MEMORY_LOOK_S
                if _memory_of_all(life.pid) > 2 * job.limits.memory_mb * _MIB:
                    was_killed = "all processes together took twice the memory of one"
            if was_killed:
                life.kill()
                break
            ready = dict(poller.poll(min(until - now, _MEMORY_LOOK_S) * 1000))
            if life.job_fd in ready:
                unsent = _sent(life.job_fd, unsent)
                if not unsent:
                    poller.unregister(life.job_fd)
                    os.close(life.job_fd)
                    life.job_fd = -1
            if life.report_fd in ready:
                part = os.read(life.report_fd, _PART)
                if not part:
                    break
                if collected.add(part):
                    until = time.monotonic() + job.limits.job_s + _GRACE_S
    finally:
        last_words = _closed(life)
    if not collected.is_ready:
        raise SandboxError(collected.failure or last_words or was_killed or "the sandbox ended before it began")
    return collected.outcomes()


class _Reports:
    """The stream of reports of a job, as it comes."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._bytes = bytearray()
        self.is_ready = False

    def add(self, part: bytes) -> bool:
        """True when this part says that the runs begin."""
        self._bytes += part
        if self.is_ready or not self._bytes.startswith(READY):
            return False
        self.is_ready = True
        return True

    @property
    def failure(self) -> str:
        if not self._bytes.startswith(FAILED):
            return ""
        return self._bytes[1:].decode("utf-8", "replace")

    def outcomes(self) -> tuple[Outcome, ...]:
        """One for each run; those without a whole report were skipped."""
        reported = list(self._reported())[: len(self._job.runs)]
        return (*reported, *[SKIPPED] * (len(self._job.runs) - len(reported)))

    def _reported(self) -> Iterator[Outcome]:
        at = len(READY)
        while at + RECORD.size <= len(self._bytes):
            end, status, cpu_s, wall_s, *sizes = RECORD.unpack_from(self._bytes, at)
            at += RECORD.size
            if at + sum(max(size, 0) for size in sizes) > len(self._bytes) or end not in list(End):
                return
            stdout, stderr, value = (bytes(self._bytes[at + start : at + stop]) for start, stop in _spans(sizes))
            at += sum(max(size, 0) for size in sizes)
            yield Outcome(End(end), status, stdout, stderr, value if sizes[2] >= 0 else None, cpu_s, wall_s)


def _spans(sizes: list[int]) -> Iterator[tuple[int, int]]:
    start = 0
    for size in sizes:
        yield start, start + max(size, 0)
        start += max(size, 0)


def _written(job: Job, directory: str, uid: int | None, is_init: bool) -> bytes:
    """`rewards.sandbox.inside.Spec`."""
    runs = tuple((run.python, run.expression, run.command, run.stdin) for run in job.runs)
    return marshal.dumps(
        {
            "files": dict(job.files),
            "runs": runs,
            "limits": asdict(job.limits),
            "stop_at_failure": job.stop_at_failure,
            "directory": directory,
            "uid": uid,
            "filter": syscall_filter(),
            "is_init": is_init,
        }
    )


def _sent(fd: int, unsent: memoryview) -> memoryview:
    try:
        return unsent[os.write(fd, unsent[:_PART]) :]
    except BlockingIOError:
        return unsent
    except BrokenPipeError:
        return unsent[len(unsent) :]  # it ended: its report, or its end, says why


def _closed(life: Life) -> str:
    """Closed pipes end a sandbox that waits for its job, or has one that nobody waits for."""
    for fd in (life.job_fd, life.report_fd):
        if fd >= 0:
            os.close(fd)
    return life.end()


def _memory_of_all(pid: int) -> int:
    """Bytes that `pid` and its descendants hold for themselves (resident, not shared); 0 where /proc does not tell."""
    total, waiting = 0, [pid]
    while waiting:
        looked_at = waiting.pop()
        try:
            resident, shared = Path(f"/proc/{looked_at}/statm").read_text().split()[1:3]
            total += (int(resident) - int(shared)) * os.sysconf("SC_PAGESIZE")
            waiting += map(int, Path(f"/proc/{looked_at}/task/{looked_at}/children").read_text().split())
        except (OSError, ValueError):
            continue  # it ended meanwhile
    return total
