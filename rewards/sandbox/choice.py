"""Which sandbox is safe on this machine: found by trying to break out of each, before anything untrusted runs.

A probe is a program that does what none may do and prints what it managed. Installed is not enough: a container's
policy may forbid namespaces, an old kernel may not know a limit.
"""

import functools
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from rewards.sandbox.bare import Bare
from rewards.sandbox.bubblewrap import Bubblewrap
from rewards.sandbox.job import Job, Limits, Run, Sandbox, SandboxError
from rewards.sandbox.namespaces import Namespaces
from rewards.sandbox.nsjail import Nsjail

BACKENDS: Mapping[str, Callable[[], Sandbox]] = {"bubblewrap": Bubblewrap, "nsjail": Nsjail, "namespaces": Namespaces}
"""In the order in which they are tried."""

_PROBE = Path(__file__).parent / "probe_program.py"
_LIMITS = Limits(run_s=5.0, job_s=8.0, memory_mb=256, processes=4, file_mb=2)
_CANARY = "PACELINE_SANDBOX_CANARY"


class NoSandboxError(RuntimeError):
    """No way of running untrusted code safely; one line that says why and what to set."""


@functools.cache
def sandbox(name: str | None = None, *, unsafe_no_sandbox: bool = False) -> Sandbox:
    """The first safe one of `BACKENDS`, or the named one; made once in a process.

    Args:
        name: of a backend; None takes the first that is safe.
        unsafe_no_sandbox: run without one. It wins over a safe one, so that it is never on by habit.

    Raises:
        NoSandboxError: none is safe here, or the named one is not.
        ValueError: no backend has this name, or a name is given along with `unsafe_no_sandbox`.
    """
    if unsafe_no_sandbox:
        if name is not None:
            raise ValueError(f"sandbox={name} and unsafe_no_sandbox exclude each other; set one of them")
        return Bare()
    if name is not None and name not in BACKENDS:
        raise ValueError(f"no sandbox {name!r}; choose one of {', '.join(BACKENDS)}")
    reasons = []
    for candidate in BACKENDS if name is None else (name,):
        try:
            made = BACKENDS[candidate]()
        except SandboxError as error:
            reasons.append(f"{candidate}: {error}"[:70])
            continue
        try:
            check(made)
            return made
        except SandboxError as error:
            made.close()
            reasons.append(f"{candidate}: {error}"[:70])
    raise NoSandboxError(
        "no safe sandbox here; install bubblewrap, or set unsafe_no_sandbox: true in the term's options to run "
        f"untrusted code without one ({'; '.join(reasons)})"
    )


def check(made: Sandbox) -> None:
    """Try to break out of it.

    Raises: SandboxError that names what was managed.
    """
    with tempfile.NamedTemporaryFile(prefix="canary") as canary:
        canary.write(b"a file of the host")
        canary.flush()
        os.chmod(canary.name, 0o666)
        os.environ[_CANARY] = "a secret of the host"
        try:
            told = repr((canary.name, _CANARY, os.getpid(), vars_of(_LIMITS)))
            source = f"GIVEN = {told}\n".encode() + _PROBE.read_bytes()
            (outcome,) = made.run(Job({"probe.py": source}, (Run("probe.py"),), _LIMITS))
        finally:
            del os.environ[_CANARY]
    if not outcome.is_clean or not outcome.stdout.endswith(b"end\n"):
        last = (outcome.stderr.decode("utf-8", "replace").splitlines() or [""])[-1]
        raise SandboxError(f"the probe ended with {outcome.end.name} {outcome.status} {last}".strip())
    managed = outcome.stdout.decode("utf-8", "replace").splitlines()[:-1]
    if managed:
        raise SandboxError(f"a program in it could {', '.join(managed)}")


def vars_of(limits: Limits) -> dict[str, int]:
    return {"memory_mb": limits.memory_mb, "processes": limits.processes, "file_mb": limits.file_mb}
