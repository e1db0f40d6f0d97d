"""Runs over several nodes of one cluster, each with its own raylet: places, a node that is lost, one that comes, a head
that is started anew, an object store that is too small for its load."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.end_to_end.conftest import ROOT, RunFolder, wait_for
from tests.end_to_end.ray_nodes import HandMade, Node
from tests.end_to_end.test_faults import assert_exact

pytestmark = pytest.mark.slow
WriteRecipe = Callable[..., Path]
PLACES = {"rollout": {"workers": 2, "nodes": "engines"}, "learner": {"nodes": "ranks"}}
AUTO = {"RAY_AUTH_MODE": "disabled"}


@pytest.fixture
def cluster() -> Iterator[HandMade]:
    made = HandMade(Path(f"/tmp/pln-{os.getpid()}"), AUTO)
    try:
        yield made
    finally:
        made.stop()


def three_nodes(cluster: HandMade) -> dict[str, Node]:
    """A head with the learner, and two nodes for engines, each of which has room for both."""
    engines = ("--resources", '{"engines": 1}')
    return {
        "head": cluster.start_head("--resources", '{"ranks": 1}', cpus=2),
        "one": cluster.start_worker("one", *engines, cpus=1),
        "two": cluster.start_worker("two", *engines, cpus=1),
    }


def train(cluster: HandMade, recipe: Path, *options: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        cluster.training(recipe, *options),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=cluster.environ(),
        start_new_session=True,
    )


def trained(folder: RunFolder, steps: int) -> bool:
    return (folder.path / "metrics.jsonl").exists() and len(folder.events("trained")) >= steps


@pytest.mark.timeout(1500)
def test_a_node_that_dies_in_mid_run_loses_no_prompt_and_a_head_that_dies_loses_no_run(
    cluster: HandMade, write_recipe: WriteRecipe, tmp_path: Path
) -> None:
    nodes = three_nodes(cluster)
    recipe = write_recipe(
        topology=PLACES,
        rollout={"max_response_tokens": 60, "start_timeout_s": 240},
        trainer={"steps": 400, "checkpoint_every": 4},
    )
    folder = RunFolder(tmp_path / "run")
    process = train(cluster, recipe)
    wait_for(lambda: trained(folder, 3), process, 400)
    # Each engine has a node of its own, since one core is all that each node has; the learner is on the head.
    assert [nodes[name].hosts("RolloutWorker") for name in ("head", "one", "two")] == [False, True, True]
    assert [nodes[name].hosts("LearnerWorker") for name in ("head", "one", "two")] == [True, False, False]

    nodes["two"].kill()
    wait_for(lambda: folder.events("worker_lost"), process)
    (lost,) = {event["worker"] for event in folder.events("worker_lost")} - {"reward"}
    # Nobody else has room: the run goes on with one engine until a node comes.
    so_far = len(folder.events("trained"))
    wait_for(lambda: trained(folder, so_far + 3), process)
    nodes["three"] = cluster.start_worker("three", "--resources", '{"engines": 1}', cpus=1)
    wait_for(lambda: lost in {event["worker"] for event in folder.events("worker_joined")}, process, 400)
    assert nodes["three"].hosts("RolloutWorker")
    so_far = len(folder.events("trained"))
    wait_for(lambda: trained(folder, so_far + 2), process)

    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, out + err
    made = int(str(folder.summary["steps"]))
    assert (folder.path / "checkpoints" / f"step-{made:06d}" / "run.json").is_file()
    prompts = assert_exact(folder)
    assert (prompts["trained"], prompts["failed"]) == (2 * made, 0)

    process = train(cluster, recipe, "--resume", f"trainer.steps={made + 400}")
    wait_for(lambda: trained(folder, made + 5), process, 400)
    nodes["head"].kill()
    out, err = process.communicate(timeout=400)
    assert process.returncode == 1, out + err
    assert "Traceback" not in err
    cluster.stop()
    cluster.port = cluster.dashboard_port = 0
    anew = HandMade(Path(f"{cluster.folder}-b"), AUTO)
    try:
        three_nodes(anew)
        last = max(int(path.parent.name.split("-")[1]) for path in folder.path.glob("checkpoints/step-*/run.json"))
        assert last >= made
        process = train(anew, recipe, "--resume", f"trainer.steps={last + 3}")
        out, err = process.communicate(timeout=400)
        assert process.returncode == 0, out + err
    finally:
        anew.stop()
    assert f"going on from {folder.path}/checkpoints/step-{last:06d}" in out
    prompts = assert_exact(folder)
    assert (prompts["trained"], prompts["failed"], prompts["pending"]) == (2 * (last + 3), 0, 0)


@pytest.mark.timeout(600)
def test_a_full_object_store_does_not_end_a_run(cluster: HandMade, write_recipe: WriteRecipe, tmp_path: Path) -> None:
    """Batches and windows go through 80 MiB that somebody else has filled: Ray writes to the disk, and the run ends."""
    cluster.start_head(cpus=4)
    filler = subprocess.Popen(
        [sys.executable, "-c", FILLER, cluster.address], env=cluster.environ(), stdout=subprocess.PIPE, text=True
    )
    try:
        assert filler.stdout is not None
        assert filler.stdout.readline() == "full\n"
        recipe = write_recipe(trainer={"steps": 3, "prompts_per_step": 16}, rollout={"max_response_tokens": 60})
        process = train(cluster, recipe)
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, out + err
    finally:
        filler.kill()
        filler.wait(timeout=30)
    assert assert_exact(RunFolder(tmp_path / "run"))["trained"] == 48


FILLER = """
import sys, time
import numpy
import ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
held = [ray.put(numpy.ones(2**20 * 8, dtype=numpy.uint8)) for _ in range(9)]
print("full", flush=True)
time.sleep(600)
"""
