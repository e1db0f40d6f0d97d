"""All checks in the order in which a run would meet what they look for, and their report."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from orchestrator.config import Recipe
from orchestrator.doctor import cluster, machine
from orchestrator.doctor.finding import Finding

MARKS = {"ok": "[green]ok[/green]     ", "warning": "[yellow]warning[/yellow]", "fault": "[red]fault[/red]  "}


def examine(recipe: Recipe, address: str | None = None) -> Iterator[Finding]:
    """Each finding as soon as it is there.

    Args:
        recipe: says where runs are written, which trackers it wants, and how large Ray's object store shall be.
        address: of a Ray cluster, in place of the recipe's.
    """
    folder = Path(recipe.run_dir or "runs")
    yield machine.check_python()
    yield from machine.check_packages()
    yield machine.check_gpu()
    yield machine.check_memory()
    yield machine.check_disk(folder)
    yield machine.check_shared_memory(recipe.ray.object_store_mb)
    yield machine.check_open_files()
    yield machine.check_storage(folder)
    yield machine.check_trackers(recipe.tracking.wandb)
    address = address or recipe.ray.address
    if address is None:
        yield cluster.check_local_ray()
    else:
        yield from cluster.check_cluster(address)


def print_findings(findings: Iterable[Finding], console: Console) -> int:
    """A line each, as they come. Returns: the number of faults."""
    faults = 0
    for finding in findings:
        faults += finding.status == "fault"
        fix = f" - {escape(finding.fix)}" if finding.fix else ""
        console.print(
            f"{MARKS[finding.status]} {escape(finding.subject):<14} {escape(finding.detail)}{fix}", soft_wrap=True
        )
    return faults
