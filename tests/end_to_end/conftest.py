"""A tiny checkpoint, a tiny recipe, and the command line in a process of its own, as a user would run it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import yaml

from tests.actors.tiny_model import write_checkpoint

ROOT = Path(__file__).parents[2]
RUN_TIMEOUT_S = 240


@dataclass(frozen=True, slots=True)
class Finished:
    """A command that ended."""

    code: int
    out: str
    err: str


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Reads what a run left behind."""

    path: Path

    @property
    def summary(self) -> dict[str, object]:
        return json.loads((self.path / "summary.json").read_text())

    def events(self, kind: str) -> list[dict[str, object]]:
        lines = (self.path / "events.jsonl").read_text().splitlines()
        return [event for event in map(json.loads, lines) if event["event"] == kind]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "orchestrator", *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "WANDB_MODE": "offline"}


def paceline(*arguments: str, timeout_s: float = RUN_TIMEOUT_S) -> Finished:
    done = subprocess.run(
        command(*arguments),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        cwd=ROOT,
        env=environment(),
        check=False,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def run(recipe: Path, *overrides: str) -> RunFolder:
    done = paceline("train", str(recipe), *overrides)
    assert done.code == 0, done.out + done.err
    assert "Traceback" not in done.out + done.err
    line = next(line for line in done.out.splitlines() if line.strip().startswith("run "))
    return RunFolder(Path(line.split()[-1]))


def start(recipe: Path, *overrides: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        command("train", str(recipe), *overrides),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment(),
        start_new_session=True,
    )


def descendants(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def wait_for(condition: Callable[[], object], process: "subprocess.Popen[str]", seconds: float = 200) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "".join(process.communicate(timeout=10))
        assert time.monotonic() < deadline, "the run did not come so far in time"
        time.sleep(0.1)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model"), tied=True)


@pytest.fixture
def write_recipe(tmp_path: Path, checkpoint: Path) -> Callable[..., Path]:
    """Writes a small complete recipe, changed by `section={key: value}`; returns its path."""

    def write(**changes: object) -> Path:
        tree: dict[str, object] = {
            "name": "tiny",
            "model": str(checkpoint),
            "run_dir": str(tmp_path / "run"),
            "data": {"tasks": [{"name": "chain_sum"}], "eval_size": 4},
            "rollout": {
                "engine": "torch",
                "group_size": 4,
                "max_prompt_tokens": 200,
                "max_response_tokens": 12,
                "max_running": 16,
                "dtype": "float32",
            },
            "reward": {"terms": [{"name": "tests.end_to_end.own_rewards:low_bytes"}]},
            "trainer": {
                "steps": 2,
                "prompts_per_step": 2,
                "dtype": "float32",
                "learning_rate": 1.0e-3,
                "token_budget": 1024,
            },
            "weight_sync": {"tolerance_mean": 0.001, "tolerance_max": 0.01},
        }
        for section, values in changes.items():
            inner = tree.get(section)
            tree[section] = {**inner, **values} if isinstance(inner, dict) and isinstance(values, dict) else values
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(tree), encoding="utf-8")
        return path

    return write
