"""Where a recipe shall run: this machine, one that is described, or a Ray cluster that is asked."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from orchestrator.errors import SettingError
from orchestrator.planning.hardware import PUBLISHED, Hardware, called, nearest
from orchestrator.planning.memory import GIB

_GPU_TYPE = "accelerator_type:"


@dataclass(frozen=True, slots=True)
class Machine:
    """Attributes:
    name: for people.
    accelerators: all of them, over all nodes; 0 for none.
    hardware: of one accelerator; None where there is none.
    memory: main memory of all nodes, bytes; None where it is not known.
    cores: of all nodes; None where it is not known.
    here: whether it is this machine, whose cores can be measured.
    nodes: how many machines it is.
    """

    name: str
    accelerators: int
    hardware: Hardware | None
    memory: int | None
    cores: int | None
    here: bool = False
    nodes: int = 1


def described(gpus: int, memory_gib: float | None, accelerator: str | None) -> Machine:
    """Raises:
    SettingError: no such accelerator is known, or less than nothing is asked for.
    """
    if accelerator is not None and accelerator not in PUBLISHED:
        raise SettingError("--accelerator", f"{accelerator} is not known", f"known are {', '.join(PUBLISHED)}")
    if gpus < 1:
        raise SettingError("--gpus", f"{gpus} is no number of GPUs", "give 1 or more, or leave it out")
    if memory_gib is not None and memory_gib <= 0:
        raise SettingError("--gpu-memory", f"{memory_gib:g} GiB is no memory", "give the GiB of one GPU")
    if accelerator is None and memory_gib is None:
        raise SettingError("--gpus", "says nothing of their memory", "add --gpu-memory GIB or --accelerator NAME")
    kind = PUBLISHED[accelerator] if accelerator is not None else nearest(int((memory_gib or 0) * GIB))
    memory = kind.memory if memory_gib is None else int(memory_gib * GIB)
    return Machine(f"{gpus} x {kind.name}", gpus, _with_memory(kind, memory), None, None)


def this_machine() -> Machine:
    """What torch and the kernel say."""
    memory, cores = _main_memory(), os.cpu_count() or 1
    if not torch.cuda.is_available():
        return Machine(f"this machine, {cores} cores", 0, None, memory, cores, here=True)
    count, properties = torch.cuda.device_count(), torch.cuda.get_device_properties(0)
    kind = called(properties.name) or nearest(properties.total_memory)
    name = f"this machine, {count} x {properties.name}"
    return Machine(name, count, _with_memory(kind, properties.total_memory), memory, cores, here=True)


def cluster(address: str) -> Machine:
    """Ask a Ray cluster what it has; joins it and leaves it again.

    Raises:
        SettingError: it cannot be joined, or does not say what its GPUs are.
    """
    import ray

    from orchestrator.joining import join

    join(address, "--address")
    try:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    finally:
        ray.shutdown()
    return of_nodes(address, nodes)


def of_nodes(address: str, nodes: list[dict[str, float]]) -> Machine:
    """What the nodes of a cluster have, by what Ray says of each.

    Raises:
        SettingError: its GPUs are of a kind that is not known.
    """
    gpus = int(sum(node.get("GPU", 0) for node in nodes))
    memory = int(sum(node.get("memory", 0) for node in nodes))
    cores = int(sum(node.get("CPU", 0) for node in nodes))
    name = f"{address}: {len(nodes)} nodes, {gpus} GPUs, {cores} CPUs"
    if not gpus:
        return Machine(name, 0, None, memory, cores, nodes=len(nodes))
    kinds = {key.removeprefix(_GPU_TYPE) for node in nodes for key in node if key.startswith(_GPU_TYPE)}
    known = [kind for kind in (called(name) for name in sorted(kinds)) if kind is not None]
    if not known:
        fix = "describe it with --gpus and --gpu-memory in the place of --address"
        raise SettingError("--address", f"its GPUs ({', '.join(sorted(kinds)) or 'of no kind'}) are not known", fix)
    least = min(known, key=lambda kind: kind.memory)
    return Machine(name, gpus, least, memory, cores, nodes=len(nodes))


def _with_memory(kind: Hardware, memory: int) -> Hardware:
    return Hardware(kind.name, kind.half, kind.single, kind.bandwidth, memory, kind.measured)


def _main_memory(meminfo: Path = Path("/proc/meminfo")) -> int | None:
    if not meminfo.exists():
        return None
    facts = dict(line.split(":", 1) for line in meminfo.read_text(encoding="utf-8").splitlines() if ":" in line)
    return 1024 * int(facts["MemTotal"].split()[0])
