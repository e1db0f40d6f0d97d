"""All checks in the order in which a run would meet what they look for, and their report."""

from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.markup import escape

from orchestrator.config import Recipe
from orchestrator.doctor import cluster, machine
from orchestrator.doctor.finding import Finding
from orchestrator.doctor.remote_storage import check_remote
from orchestrator.storage.address import is_remote, local_path
from orchestrator.storage.place import RUNS

MARKS = {"ok": "[green]ok[/green]     ", "warning": "[yellow]warning[/yellow]", "fault": "[red]fault[/red]  "}


def examine(recipe: Recipe, address: str | None = None) -> Iterator[Finding]:
    """Each finding as soon as it is there.

    Args:
        recipe: says where runs are written, which trackers it wants, and how large Ray's object store shall be.
        address: of a Ray cluster, in place of the recipe's.
    """
    remote = recipe.run_dir if is_remote(recipe.run_dir) else None
    folder = local_path((recipe.storage.working_dir if remote else recipe.run_dir) or RUNS)
    yield machine.check_python()
    yield from machine.check_packages()
    yield machine.check_gpu()
    yield machine.check_memory()
    yield machine.check_disk(folder)
    yield machine.check_shared_memory(recipe.ray.object_store_mb)
    yield machine.check_open_files()
    yield machine.check_storage(folder)
    if remote is not None:
        yield check_remote(remote, recipe.storage)
    yield machine.check_trackers(recipe.tracking)
    address = address or recipe.ray.address
    if address is None:
        yield cluster.check_local_ray()
    else:
        yield from cluster.check_cluster(address, folder)


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
