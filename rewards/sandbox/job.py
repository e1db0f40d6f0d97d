"""What a sandbox is asked to do, and what it answers.

A `Job` is one life of a sandbox: some files, and several runs one after the other, each in a process of its own. The
sandbox is built once for all of them, because building it costs more than most programs take.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Protocol


class SandboxError(RuntimeError):
    """The sandbox itself failed, which says nothing about the program: the sample is not to be scored by it."""


class End(IntEnum):
    """How a run came to its end. The numbers travel between the processes (`rewards.sandbox.inside`)."""

    EXIT = 0
    """By itself; `Outcome.status` is its exit code."""
    SIGNAL = 1
    """By a signal, its own fault or another's; `Outcome.status` is its number."""
    WALL_TIME = 2
    CPU_TIME = 3
    OUTPUT = 4
    """More than `Limits.output_bytes` were printed."""
    SKIPPED = 5
    """Not run, or not to its end: the job's time was over, an earlier run failed under `stop_at_failure`, or the
    sandbox was killed."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one job may take.

    Attributes:
        run_s: wall time of one run, and its CPU time (rounded up to whole seconds).
        job_s: wall time of all runs together.
        memory_mb: address space of a process, MiB, the interpreter's own included; all processes together may hold
            twice as much, which is looked at ten times a second.
        processes: processes and threads at a time.
        file_mb: the private /tmp, and the largest file, MiB.
        output_bytes: of a run's stdout and stderr together.
        value_bytes: of the written form of an expression's value.
    """

    run_s: float = 5.0
    job_s: float = 8.0
    memory_mb: int = 512
    processes: int = 16
    file_mb: int = 32
    output_bytes: int = 1 << 20
    value_bytes: int = 1 << 20

    def __post_init__(self) -> None:
        for name in ("run_s", "job_s", "memory_mb", "processes", "file_mb", "output_bytes", "value_bytes"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)} must be above 0")


@dataclass(frozen=True, slots=True)
class Run:
    """One process: a Python file of the job, or a command.

    Attributes:
        python: the file to run as `__main__`, in a fresh fork of an interpreter that has loaded next to nothing.
        expression: evaluated in the file's namespace after it ran as a module; its value is reported.
        command: program and arguments instead, found in /usr/bin, /bin and so on.
        stdin: the whole standard input.
    """

    python: str | None = None
    expression: str | None = None
    command: tuple[str, ...] = ()
    stdin: bytes = b""

    def __post_init__(self) -> None:
        if (self.python is None) == (not self.command):
            raise ValueError("a run is either a Python file or a command")


@dataclass(frozen=True, slots=True)
class Job:
    """Files by their plain names, in the working directory of the runs; and the runs, in order."""

    files: Mapping[str, bytes]
    runs: tuple[Run, ...]
    limits: Limits = field(default_factory=Limits)
    stop_at_failure: bool = False
    """Skip what follows a run that did not exit with code 0."""

    def __post_init__(self) -> None:
        for name in self.files:
            if "/" in name or "\0" in name or name in ("", ".", ".."):
                raise ValueError(f"{name!r} is not a plain file name")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run did. All of it was said by a process next to the untrusted one: believe it of the program alone.

    Attributes:
        status: exit code, or signal number.
        stdout, stderr: cut at the limit; any bytes.
        value: of the expression, written by `rewards.sandbox.inside`; None where there is none.
        cpu_s, wall_s: what it took.
    """

    end: End
    status: int = 0
    stdout: bytes = b""
    stderr: bytes = b""
    value: bytes | None = None
    cpu_s: float = 0.0
    wall_s: float = 0.0

    @property
    def is_clean(self) -> bool:
        return self.end is End.EXIT and self.status == 0


SKIPPED = Outcome(End.SKIPPED)


class Sandbox(Protocol):
    """One way of isolating a job. One thread at a time, and it ends with the thread that first used it."""

    def __hash__(self) -> int: ...

    @property
    def name(self) -> str: ...

    def run(self, job: Job) -> tuple[Outcome, ...]:
        """An outcome for each run, within `job_s` and a grace of seconds; all processes are gone by then.

        Raises: SandboxError where it could not be set up.
        """
        ...

    def close(self) -> None:
        """End what it keeps running between jobs. Safe to call twice."""
        ...
