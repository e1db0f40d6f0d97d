"""Short ways of running programs in a sandbox, and of looking at the host meanwhile."""

import textwrap
import time
from collections.abc import Callable
from pathlib import Path

from rewards.sandbox.job import Job, Limits, Outcome, Run, Sandbox

QUICK = Limits(run_s=2.0, job_s=6.0, memory_mb=256, processes=8, file_mb=4, output_bytes=10_000, value_bytes=10_000)


def run(box: Sandbox, source: str, *, stdin: bytes = b"", limits: Limits = QUICK) -> Outcome:
    (outcome,) = box.run(Job({"program.py": dedented(source)}, (Run("program.py", stdin=stdin),), limits))
    return outcome


def run_two(box: Sandbox, first: str, second: str, *, limits: Limits = QUICK) -> tuple[Outcome, Outcome]:
    """One after the other in one sandbox."""
    files = {"first.py": dedented(first), "second.py": dedented(second)}
    one, other = box.run(Job(files, (Run("first.py"), Run("second.py")), limits))
    return one, other


def evaluate(box: Sandbox, source: str, expression: str, *, limits: Limits = QUICK) -> Outcome:
    (outcome,) = box.run(Job({"program.py": dedented(source)}, (Run("program.py", expression),), limits))
    return outcome


def dedented(source: str) -> bytes:
    return textwrap.dedent(source).encode("utf-8", "surrogateescape")


def descendants(pid: int) -> set[int]:
    """Of a process of the host, as the host numbers them."""
    found, waiting = set(), [pid]
    while waiting:
        for path in Path(f"/proc/{waiting.pop()}/task").glob("*/children"):
            try:
                born = {int(child) for child in path.read_text().split()} - found
            except OSError:
                continue
            found |= born
            waiting += born
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def happens(condition: Callable[[], bool], within_s: float = 5.0) -> bool:
    until = time.monotonic() + within_s
    while not condition() and time.monotonic() < until:
        time.sleep(0.02)
    return condition()
