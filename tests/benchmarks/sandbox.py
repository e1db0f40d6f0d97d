"""What a sandbox costs: milliseconds for a job of one program, and for each further test in the same job.

    make bench NAME=sandbox          or   python -m tests.benchmarks.sandbox [--jobs 100]

Every backend that is safe on this machine, one job after the other; beside them the same program in a bare interpreter
without any isolation. The headline is the fastest sandbox over that bare interpreter: below 1 it costs nothing.
"""

import argparse
import os
import statistics
import subprocess
import time
from collections.abc import Callable

from rewards.sandbox.choice import BACKENDS, check
from rewards.sandbox.job import Job, Run, Sandbox, SandboxError
from rewards.sandbox.layout import layout
from tests.benchmarks.report import finish

PROGRAM = b"print(sum(map(int, input().split())))"
STDIN = b"1 2 3"
MANY = 11


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--jobs", type=int, default=100)
    jobs = arguments.parse_args().jobs
    plain = timed(bare_interpreter, jobs)
    rows: list[dict[str, object]] = [row("a bare interpreter", plain)]
    medians = []
    for name, make in BACKENDS.items():
        try:
            box = make()
            check(box)
        except SandboxError as error:
            rows.append({"name": name, "missing": str(error)})
            continue
        one = timed(lambda box=box: run(box, 1), jobs)  # type: ignore[misc]
        many = timed(lambda box=box: run(box, MANY), jobs // 4 or 1)  # type: ignore[misc]
        per_test = (many[0] - one[0]) / (MANY - 1)
        rows.append({**row(name, one), "best_further_test_ms": round(per_test, 2)})
        medians.append(statistics.median(one))
        box.close()
    for told in rows:
        print(told)
    ratio = round(min(medians) / statistics.median(plain), 3)
    finish("sandbox", ratio=ratio, unit="time of one job / time of a bare interpreter", rows=rows, seed=0)


def run(box: Sandbox, runs: int) -> None:
    outcomes = box.run(Job({"p.py": PROGRAM}, (Run("p.py", stdin=STDIN),) * runs))
    assert all(outcome.stdout == b"6\n" for outcome in outcomes)


def bare_interpreter() -> None:
    done = subprocess.run(
        [layout().python, "-s", "-S", "-c", PROGRAM], input=STDIN, capture_output=True, timeout=10, env=dict(os.environ)
    )
    assert done.stdout == b"6\n"


def timed(work: Callable[[], None], times: int) -> list[float]:
    work()
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        taken.append((time.perf_counter() - started) * 1000)
    return sorted(taken)


def row(name: str, taken: list[float]) -> dict[str, object]:
    p99 = taken[min(len(taken) - 1, int(0.99 * len(taken)))]
    rounded = {"best_ms": taken[0], "p50_ms": statistics.median(taken), "p99_ms": p99}
    return {"name": name, **{key: round(value, 2) for key, value in rounded.items()}, "jobs": len(taken)}


if __name__ == "__main__":
    main()
