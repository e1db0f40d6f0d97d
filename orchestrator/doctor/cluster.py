"""Checks of a Ray cluster: it answers, its nodes run what we run, reach each other, and agree on the time.

A node is asked by a task that is bound to it. Everything that waits has a deadline; a node that misses it is a fault
of its own, and the rest goes on.
"""

import platform
import socket
import time
from collections.abc import Iterator
from contextlib import closing

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from learners.errors import first_line
from orchestrator.doctor.finding import Finding, ok

ANSWER_TIMEOUT_S = 60.0
"""Of a node's first task: a worker process starts for it."""
CONNECT_TIMEOUT_S = 5.0
SKEW_S = 1.0
"""Clocks that differ by more make the order of events in logs and traces meaningless."""


def check_local_ray() -> Finding:
    """Without an address a run starts Ray by itself."""
    return ok("ray", f"{ray.__version__}; ray.address is not set: runs start it on this machine")


def check_cluster(address: str) -> Iterator[Finding]:
    """Joins the cluster and leaves it again."""
    if (fault := _unreachable(address)) is not None:
        yield fault
        return
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = first_line(error)
        yield Finding("ray", "fault", f"{address} cannot be joined ({reason})", "compare `ray status` and versions")
        return
    try:
        yield from _check_nodes(address)
    finally:
        ray.shutdown()


def _unreachable(address: str) -> Finding | None:
    host, _, port = address.rpartition(":")
    if address == "auto" or "://" in address or not port.isdigit():
        return None  # Ray finds out by itself where that is
    try:
        socket.create_connection((host, int(port)), CONNECT_TIMEOUT_S).close()
    except OSError as error:
        return Finding("ray", "fault", f"nothing answers at {address} ({error})", "check ray.address with `ray status`")
    return None


def _check_nodes(address: str) -> Iterator[Finding]:
    nodes = {
        node["NodeManagerAddress"] + "/" + node["NodeID"][:6]: node["NodeID"] for node in ray.nodes() if node["Alive"]
    }
    total = ray.cluster_resources()
    yield ok("ray", f"{address}: {len(nodes)} nodes, {total.get('CPU', 0):g} CPUs, {total.get('GPU', 0):g} GPUs")
    answering = {}
    for name, node in nodes.items():
        try:
            version, skew = _ask(node)
        except (GetTimeoutError, RayError) as error:
            reason = first_line(error)
            yield Finding(f"node {name}", "fault", f"runs no task ({reason})", "look at it in `ray status`")
            continue
        answering[name] = node
        if version != platform.python_version():
            here = platform.python_version()
            yield Finding(f"node {name}", "fault", f"Python {version}, here {here}", "use one image everywhere")
        elif abs(skew) > SKEW_S:
            yield Finding(f"node {name}", "warning", f"its clock is {skew:+.1f} s off", "run NTP on the nodes")
        else:
            yield ok(f"node {name}", f"Python {version}, clock within {SKEW_S:g} s")
    yield from _check_ports(answering)


def _ask(node: str) -> tuple[str, float]:
    """Python version of a node, and how far its clock is ahead, seconds."""
    probe = _on(node).remote
    ray.get(probe(), timeout=ANSWER_TIMEOUT_S)  # starts a worker, which takes seconds
    before = time.time()
    version, there = ray.get(probe(), timeout=ANSWER_TIMEOUT_S)
    return version, there - (before + time.time()) / 2


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


def _identify() -> tuple[str, float]:
    return platform.python_version(), time.time()


def _on(node: str) -> "ray.remote_function.RemoteFunction":
    return ray.remote(num_cpus=0)(_identify).options(scheduling_strategy=_affinity(node))


def _affinity(node: str) -> NodeAffinitySchedulingStrategy:
    return NodeAffinitySchedulingStrategy(node, soft=False)
