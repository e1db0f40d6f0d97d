"""A Ray cluster of several nodes on this machine, each as somebody would start it by hand: `ray start`.

Everything it leaves lies in one folder, its ports are its own, and only processes that it started are ever ended.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.end_to_end.conftest import ROOT

RAY = Path(sys.executable).with_name("ray")
UP_S = 60.0
UP = "Ray runtime started."
OBJECT_STORE = 80 * 2**20
AGENT_PORTS = ("--dashboard-agent-listen-port", "--dashboard-agent-grpc-port", "--metrics-export-port")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


@dataclass
class Node:
    """One `ray start --block`."""

    name: str
    process: "subprocess.Popen[bytes]"

    def family(self) -> list[psutil.Process]:
        """All that runs on the node."""
        root = psutil.Process(self.process.pid)
        return [root, *root.children(recursive=True)]

    def kill(self) -> None:
        """As if the power went out."""
        family = self.family()
        for member in family:
            try:
                member.kill()
            except psutil.NoSuchProcess:
                continue
        self.process.wait(timeout=30)
        psutil.wait_procs(family, timeout=30)

    def hosts(self, actor: str) -> bool:
        return any(f"ray::{actor}" in " ".join(_command(member)) for member in self.family())


@dataclass
class HandMade:
    """A cluster. `folder` is short: Ray puts sockets below it."""

    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    nodes: dict[str, Node] = field(default_factory=dict)
    hosts: Mapping[str, str] = field(default_factory=dict)
    """Network namespaces by the address that is theirs: nodes may be on these instead of this machine."""
    port: int = field(default_factory=free_port)
    dashboard_port: int = field(default_factory=free_port)

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def dashboard(self) -> str:
        return f"http://127.0.0.1:{self.dashboard_port}"

    @property
    def host(self) -> str:
        if self.hosts:
            return next(iter(self.hosts))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect(("192.0.2.1", 9))  # nothing is sent
            except OSError:
                return "127.0.0.1"
            return str(probe.getsockname()[0])

    def environ(self) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        common = {
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",  # else all that matters gives way to whatever else the machine does
            "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), **common, **self.environment}

    def inside(self, address: str, hidden: Path | None = None) -> list[str]:
        """How a command begins that runs on this host, and does not see what this machine has in the hidden folder."""
        host = ["ip", "netns", "exec", self.hosts[address]] if address in self.hosts else []
        if hidden is None:
            return host
        return [*host, "unshare", "--mount", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(hidden)]

    def training(self, recipe: Path, *options: str) -> list[str]:
        """The command that trains this recipe here."""
        return [sys.executable, "-m", "deploy", "train", str(recipe), f"ray.address={self.address}", *options]

    def start_head(self, *options: str, cpus: float = 2) -> Node:
        head = ["--head", "--port", str(self.port), "--dashboard-port", str(self.dashboard_port)]
        temporary = ["--temp-dir", str(self.folder), "--ray-client-server-port", str(free_port())]
        port = None if self.hosts else self.dashboard_port
        return self._start("head", *head, *temporary, *options, cpus=cpus, port=port, on=self.host)

    def start_worker(self, name: str, *options: str, cpus: float = 2, on: str = "", hidden: Path | None = None) -> Node:
        return self._start(name, "--address", self.address, *options, cpus=cpus, on=on, hidden=hidden)

    def _start(
        self, name: str, *options: str, cpus: float, on: str, port: int | None = None, hidden: Path | None = None
    ) -> Node:
        ports = [text for option in AGENT_PORTS for text in (option, str(free_port()))]
        size = ["--num-cpus", f"{cpus:g}", "--object-store-memory", str(OBJECT_STORE)]
        said = self.folder.parent / f"{self.folder.name}-{name}.log"
        place = ["--node-ip-address", on] if on in self.hosts else []
        start = [*self.inside(on, hidden), str(RAY), "start", "--block", "--disable-usage-stats"]
        with said.open("wb") as log:
            process = subprocess.Popen(
                [*start, *size, *ports, *place, *options],
                env=self.environ(),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.nodes[name] = node = Node(name, process)
        deadline = time.monotonic() + UP_S
        while UP not in said.read_text() or (port is not None and not _answers(port)):
            assert process.poll() is None, said.read_text()
            assert time.monotonic() < deadline, f"{name} did not come up: {said.read_text()}"
            time.sleep(0.2)
        return node

    def stop(self) -> None:
        for node in self.nodes.values():
            if node.process.poll() is None:
                node.kill()
        self.nodes.clear()


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1.0).close()
    except OSError:
        return False
    return True


def _command(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.NoSuchProcess:
        return []
