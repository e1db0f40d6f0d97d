"""A run over two hosts with addresses of their own, joined by a cable: network namespaces, where they can be made."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.end_to_end.conftest import ROOT, RunFolder
from tests.end_to_end.ray_nodes import HandMade
from tests.end_to_end.test_faults import assert_exact

pytestmark = pytest.mark.slow
WriteRecipe = Callable[..., Path]
NAMES = ("pla", "plb")
ADDRESSES = ("10.77.31.1", "10.77.31.2")


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=20)


@pytest.fixture
def hosts() -> Iterator[dict[str, str]]:
    """Two namespaces, each with a loopback of its own and one end of a cable; no other network."""
    spaces = [f"{name}{os.getpid()}" for name in NAMES]
    try:
        for space in spaces:
            ip("netns", "add", space)
        ends = [f"v{name}{os.getpid()}" for name in NAMES]
        ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
        for space, end, address in zip(spaces, ends, ADDRESSES, strict=True):
            ip("link", "set", end, "netns", space)
            ip("-n", space, "addr", "add", f"{address}/24", "dev", end)
            ip("-n", space, "link", "set", end, "up")
            ip("-n", space, "link", "set", "lo", "up")
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"network namespaces cannot be made here: {error}")
    else:
        yield dict(zip(ADDRESSES, spaces, strict=True))
    finally:
        for space in spaces:
            subprocess.run(["ip", "netns", "del", space], check=False, capture_output=True, timeout=20)


@pytest.fixture
def cluster(hosts: dict[str, str]) -> Iterator[HandMade]:
    made = HandMade(Path(f"/tmp/plt-{os.getpid()}"), {"RAY_AUTH_MODE": "disabled"}, hosts=hosts)
    try:
        made.start_head("--resources", '{"ranks": 1}', cpus=1)
        yield made
    finally:
        made.stop()


def start_far(cluster: HandMade, hidden: Path | None = None) -> None:
    far = ADDRESSES[1]
    cluster.start_worker("far", "--resources", '{"ranks": 1, "engines": 1}', cpus=2, on=far, hidden=hidden)


@pytest.fixture
def recipe(write_recipe: WriteRecipe) -> Path:
    """The engine has room on the far host alone, and each rank on a host of its own."""
    places = {"rollout": {"nodes": "engines"}, "learner": {"ranks": 2, "nodes": "ranks"}}
    return write_recipe(topology=places, trainer={"steps": 2})


def train(cluster: HandMade, recipe: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*cluster.inside(ADDRESSES[0]), *cluster.training(recipe)],
        cwd=ROOT,
        env=cluster.environ(),
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


@pytest.mark.timeout(600)
def test_ranks_and_engines_on_two_hosts_meet_at_their_addresses(
    cluster: HandMade, recipe: Path, tmp_path: Path
) -> None:
    """Weights, gradients and answers cross the cable. Ray alone would fill the far host with ranks, and wait."""
    start_far(cluster)
    done = train(cluster, recipe)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = RunFolder(tmp_path / "run")
    assert assert_exact(folder)["trained"] == 4
    assert [event["version"] for event in folder.events("sync")] == [-1, 0, 1, 2]
    assert not any(event["failure"] for event in folder.events("sync"))


@pytest.mark.timeout(600)
def test_a_host_that_does_not_see_the_runs_folder_is_one_line_before_anything_starts(
    cluster: HandMade, recipe: Path, tmp_path: Path
) -> None:
    start_far(cluster, hidden=tmp_path)
    done = train(cluster, recipe)
    assert done.returncode == 2, done.stdout + done.stderr
    said = done.stderr.strip().splitlines()
    assert f"run_dir: the node of learner-1 does not see {tmp_path / 'run'}" in said[-1], done.stderr
    assert not (tmp_path / "run").exists()
