"""Runs as jobs of a Ray cluster that was started by hand, behind a token: from `paceline submit` to its exit code."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.end_to_end.conftest import Finished, RunFolder
from tests.end_to_end.ray_nodes import HandMade
from tests.end_to_end.test_faults import assert_exact

pytestmark = pytest.mark.slow
WriteRecipe = Callable[..., Path]
TOKEN, KEY = "planted-token-b71d", "planted-key-0c4e"
OWN_REWARD = "from beside import worth\n\ndef score(response):\n    return worth(response.text)\n"
BESIDE = "def worth(text):\n    return float(len(text) % 3)\n"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HandMade]:
    token = tmp_path_factory.mktemp("token") / "token"
    token.write_text(TOKEN * 3)
    secrets = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "OPENAI_API_KEY": KEY}
    made = HandMade(Path(f"/tmp/plj-{os.getpid()}"), secrets)
    try:
        made.start_head(cpus=4)
        yield made
    finally:
        made.stop()


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """The folder of somebody with a reward of their own, and with secrets lying about."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "own.py").write_text(OWN_REWARD)
    (folder / "beside.py").write_text(BESIDE)
    (folder / ".env").write_text(f"KEY={KEY}")
    return folder


def paceline(cluster: HandMade, mine: Path, *arguments: str, **variables: str) -> Finished:
    """The command as it is typed in the user's folder."""
    done = subprocess.run(
        [sys.executable, "-m", "deploy", *arguments, "--address", cluster.dashboard],
        capture_output=True,
        text=True,
        timeout=400,
        cwd=mine,
        env={**cluster.environ(), "RAY_ADDRESS": "http://127.0.0.1:1", **variables},
        check=False,
    )
    assert "Traceback" not in done.stdout + done.stderr, done.stdout + done.stderr
    return Finished(done.returncode, done.stdout, done.stderr)


def job_of(done: Finished) -> str:
    (line,) = (line for line in done.out.splitlines() if line.startswith("job "))
    return line.split()[1]


def no_secret_in(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert TOKEN.encode() not in content, path
            assert KEY.encode() not in content, path


@pytest.mark.timeout(1200)
def test_a_job_is_stopped_behind_a_checkpoint_and_its_run_goes_on_to_the_end(
    cluster: HandMade, mine: Path, write_recipe: WriteRecipe, tmp_path: Path
) -> None:
    recipe = write_recipe(
        reward={"terms": [{"name": "own:score"}]},
        rollout={"max_response_tokens": 40},
        trainer={"steps": 400},
    )
    folder = RunFolder(tmp_path / "run")
    begun = paceline(cluster, mine, "submit", str(recipe), "--no-follow")
    assert begun.code == 0, begun.err
    assert "sending the recipe and 2 files" in begun.out
    job = job_of(begun)
    deadline = time.monotonic() + 300
    while not ((folder.path / "metrics.jsonl").exists() and len(folder.events("trained")) >= 2):
        assert time.monotonic() < deadline, paceline(cluster, mine, "status", job).out
        time.sleep(0.3)
    going = paceline(cluster, mine, "status", job)
    assert going.code == 0
    assert "  running  " in going.out
    assert "\nstep " in going.out

    stopped = paceline(cluster, mine, "stop", job)
    assert stopped.code == 0, stopped.out + stopped.err
    assert "stopping at the end of this step" in stopped.out
    assert "  stopped  " in stopped.out
    assert paceline(cluster, mine, "status", job).code == 130
    assert folder.summary["status"] == "interrupted"
    made = int(str(folder.summary["steps"]))
    (kept,) = (folder.path / "checkpoints").glob("step-*/run.json")
    assert kept.parent.name == f"step-{made:06d}"
    assert assert_exact(folder)["trained"] == 2 * made

    steps = made + 2
    ended = paceline(cluster, mine, "submit", str(recipe), f"trainer.steps={steps}", "--resume", job)
    assert ended.code == 0, ended.out + ended.err
    assert f"going on from {kept.parent}" in ended.out
    (going_on,) = folder.events("run_resumed")
    assert going_on["step"] == made
    assert folder.summary["status"] == "completed"
    assert folder.summary["steps"] == steps
    prompts = assert_exact(folder)
    assert (prompts["trained"], prompts["failed"], prompts["pending"]) == (2 * steps, 0, 0)

    again = paceline(cluster, mine, "submit", str(recipe), f"trainer.steps={steps}")
    assert again.code == 2
    assert f"all of its {steps} steps are made" in again.out
    listed = paceline(cluster, mine, "jobs").out.splitlines()
    assert [line.split()[1] for line in listed] == ["failed", "succeeded", "stopped"]

    no_secret_in(folder.path)
    # Neither in what Ray wrote of the jobs, nor on any screen.
    no_secret_in(cluster.folder / "session_latest" / "logs")
    for done in (begun, going, stopped, ended, again):
        assert TOKEN not in done.out + done.err
        assert KEY not in done.out + done.err


def test_what_cannot_run_there_is_one_line_and_leaves_nothing(
    cluster: HandMade, mine: Path, write_recipe: WriteRecipe, tmp_path: Path
) -> None:
    recipe = write_recipe()

    def refused(*arguments: str, **variables: str) -> str:
        done = paceline(cluster, mine, "submit", str(recipe), *arguments, **variables)
        assert done.code == 2, done.out + done.err
        (line,) = (line for line in (done.out + done.err).splitlines() if line.startswith("paceline: "))
        assert not (tmp_path / "run").exists()
        return line

    assert "wants a token" in refused(RAY_AUTH_MODE="disabled")
    assert "wants another token" in refused(RAY_AUTH_TOKEN="something-else-altogether-0123")
    assert "no module absent" in refused("reward.terms=[absent:score]")
    if (bare := Path("/usr/bin/python3")).exists():
        assert "has no Ray; name the Python of its nodes by --python" in refused("--python", str(bare))
    before = time.monotonic()
    too_small = refused("topology.rollout.workers=9")
    assert "9 cores" in too_small or "10 cores" in too_small
    assert "topology.rollout" in too_small
    assert time.monotonic() - before < 60, "found before anything starts"


def test_dry_run_shows_what_would_be_sent_and_asks_nobody(
    cluster: HandMade, mine: Path, write_recipe: WriteRecipe
) -> None:
    recipe = write_recipe(reward={"terms": [{"name": "own:score"}]})
    shown = paceline(cluster, mine, "submit", str(recipe), "--dry-run", RAY_AUTH_MODE="disabled")
    assert shown.code == 0, shown.err
    assert yaml.safe_load(shown.out)["ray"]["address"] == "auto"
    assert [line.split()[-1] for line in shown.out.splitlines() if line.startswith("# ")] == ["beside.py", "own.py"]
    assert TOKEN not in shown.out
    assert KEY not in shown.out
