"""Checks of a Ray cluster: it answers; its nodes run what we run, have room, see the same storage, reach each other and
agree on the time.

A node is asked by a task that is bound to it. Everything that waits has a deadline; a node that misses it is a fault
of its own, and the rest goes on.
"""

import platform
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from learners.errors import first_line
from orchestrator.disk import existing
from orchestrator.doctor import machine
from orchestrator.doctor.finding import Finding, ok
from orchestrator.errors import SettingError
from orchestrator.joining import CONNECT_TIMEOUT_S, join

ANSWER_TIMEOUT_S = 60.0
"""Of a node's first task: a worker process starts for it."""
SKEW_S = 1.0
"""Clocks that differ by more make the order of events in logs and traces meaningless."""


def check_local_ray() -> Finding:
    """Without an address a run starts Ray by itself."""
    return ok("ray", f"{ray.__version__}; ray.address is not set: runs start it on this machine")


def check_cluster(address: str, folder: Path) -> Iterator[Finding]:
    """Joins the cluster and leaves it again.

    Args:
        folder: where runs are written.
    """
    try:
        join(address)
    except SettingError as error:
        yield Finding("ray", "fault", error.reason, error.fix)
        return
    try:
        yield from _check_nodes(address, folder)
    finally:
        ray.shutdown()


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """Attributes:
    packages: versions of those that must be the same everywhere; None for one that is missing.
    clock: seconds since the epoch.
    findings: of the checks that each machine is put to.
    sees_mark: whether a file that the driver wrote is there.
    """

    python: str
    packages: Mapping[str, str | None]
    clock: float
    findings: tuple[Finding, ...]
    sees_mark: bool


def _check_nodes(address: str, folder: Path) -> Iterator[Finding]:
    nodes = {node["NodeManagerAddress"] + "/" + node["NodeID"][:6]: node for node in ray.nodes() if node["Alive"]}
    total = ray.cluster_resources()
    yield ok("ray", f"{address}: {len(nodes)} nodes, {total.get('CPU', 0):g} CPUs, {total.get('GPU', 0):g} GPUs")
    answering: dict[str, NodeFacts] = {}
    with _mark(folder) as mark:
        for name, node in nodes.items():
            store = node["Resources"].get("object_store_memory", 0.0)
            try:
                facts, skew = _ask(node["NodeID"], store, folder, mark)
            except (GetTimeoutError, RayError) as error:
                reason = first_line(error)
                yield Finding(f"node {name}", "fault", f"runs no task ({reason})", "look at it in `ray status`")
                continue
            answering[name] = facts
            yield from judged(name, facts, skew)
    if len(nodes) > 1 and answering:
        yield shared(folder, {name: facts.sees_mark for name, facts in answering.items()})
    yield from _check_ports({name: nodes[name]["NodeID"] for name in answering})


def judged(name: str, facts: NodeFacts, skew: float) -> Iterator[Finding]:
    """What one node's facts amount to.

    Args:
        skew: seconds by which its clock is ahead.
    """
    subject, here = f"node {name}", machine.versions()
    other = [
        f"{package} {facts.packages.get(package) or 'missing'}, here {version or 'missing'}"
        for package, version in here.items()
        if facts.packages.get(package) != version
    ]
    if facts.python != platform.python_version():
        other.insert(0, f"Python {facts.python}, here {platform.python_version()}")
    if other:
        yield Finding(subject, "fault", "; ".join(other), "use one image everywhere")
    elif abs(skew) > SKEW_S:
        yield Finding(subject, "warning", f"its clock is {skew:+.1f} s off", "run NTP on the nodes")
    else:
        yield ok(subject, f"Python {facts.python} and packages as here, clock within {SKEW_S:g} s")
    for finding in facts.findings:
        if finding.status != "ok":
            yield replace(finding, subject=subject, detail=f"{finding.subject}: {finding.detail}")


def shared(folder: Path, seen: Mapping[str, bool]) -> Finding:
    """Whether all nodes see what is written in the folder of runs: ranks on any of them write checkpoints there."""
    blind = [name for name, sees in seen.items() if not sees]
    if not blind:
        return ok("shared storage", f"{len(seen)} nodes see {folder}")
    fix = "set run_dir to a folder that all nodes mount, or let one node run everything"
    return Finding("shared storage", "warning", f"{', '.join(blind)} does not see what is written in {folder}", fix)


@contextmanager
def _mark(folder: Path) -> Iterator[Path | None]:
    """A file where runs are written, for as long as the block lasts; None where none can be."""
    try:
        with tempfile.NamedTemporaryFile(dir=existing(folder), prefix=".paceline-doctor-") as file:
            yield Path(file.name).resolve()
    except OSError:  # the check of the storage says so
        yield None


def _ask(node: str, store: float, folder: Path, mark: Path | None) -> tuple[NodeFacts, float]:
    """Facts of a node, and how far its clock is ahead, seconds."""
    probe = ray.remote(num_cpus=0)(_look).options(scheduling_strategy=_affinity(node))
    ray.get(probe.remote(store, folder, mark), timeout=ANSWER_TIMEOUT_S)  # starts a worker, which takes seconds
    before = time.time()
    facts: NodeFacts = ray.get(probe.remote(store, folder, mark), timeout=ANSWER_TIMEOUT_S)
    return facts, facts.clock - (before + time.time()) / 2


def _look(store: float, folder: Path, mark: Path | None) -> NodeFacts:
    """Runs on the node."""
    findings = (
        machine.check_memory(),
        machine.check_disk(folder),
        machine.check_store(store),
        machine.check_open_files(),
    )
    sees = mark is None or mark.exists()
    return NodeFacts(platform.python_version(), machine.versions(), time.time(), findings, sees)


def _check_ports(nodes: dict[str, str]) -> Iterator[Finding]:
    """Around in a ring: each node connects to a free port of the next, as weights and collectives will."""
    names = list(nodes)
    for name, following in zip(names, [*names[1:], *names[:1]], strict=True):
        if name == following:
            return
        listener = ray.remote(num_cpus=0)(_Listener).options(scheduling_strategy=_affinity(nodes[following])).remote()
        try:
            place = ray.get(listener.address.remote(), timeout=ANSWER_TIMEOUT_S)
            connect = ray.remote(num_cpus=0)(_connect).options(scheduling_strategy=_affinity(nodes[name]))
            problem = ray.get(connect.remote(*place), timeout=ANSWER_TIMEOUT_S)
        except (GetTimeoutError, RayError) as error:
            problem = first_line(error)
        ray.kill(listener)
        if problem:
            fix = "open all TCP ports between the nodes"
            yield Finding("ports", "fault", f"{name} cannot reach {following} ({problem})", fix)
            return
    yield ok("ports", f"{len(names)} nodes reach each other")


class _Listener:
    """Holds a free port of its node open."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("", 0))

    def address(self) -> tuple[str, int]:
        return ray.util.get_node_ip_address(), self._socket.getsockname()[1]


def _connect(host: str, port: int) -> str:
    """Empty, or what went wrong."""
    try:
        with closing(socket.create_connection((host, port), CONNECT_TIMEOUT_S)):
            return ""
    except OSError as error:
        return f"{host}:{port}: {error}"


def _affinity(node: str) -> NodeAffinitySchedulingStrategy:
    return NodeAffinitySchedulingStrategy(node, soft=False)
