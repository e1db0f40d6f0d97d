"""A whole training run as a user starts it, and what it wrote: what benchmarks of runs are made of."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

RUN_TIMEOUT_S = 3600


@dataclass(frozen=True, slots=True)
class WholeRun:
    """A finished run: its folder, summary.json, and a row of metrics per step."""

    folder: Path
    summary: Mapping[str, object]
    steps: Sequence[Mapping[str, float]]

    def part(self, name: str) -> dict[str, float]:
        """An object of figures in summary.json."""
        part = self.summary[name]
        assert isinstance(part, dict)
        return part

    def held_out_reward(self, *, step: int) -> float:
        """Mean reward of the answers to held-out prompts after a step."""
        file = self.folder / "samples" / f"eval-held_out-{step:06d}.jsonl"
        answers = file.read_text(encoding="utf-8").splitlines()
        return round(fmean(sum(json.loads(answer)["terms"].values()) for answer in answers), 4)


def train_quickstart(settings: Sequence[str], run_dir: Path) -> WholeRun:
    """``paceline train quickstart`` with these settings.

    Raises:
        SystemExit: it failed; its last lines are shown.
    """
    command = [sys.executable, "-m", "orchestrator", "train", "quickstart", *settings, f"run_dir={run_dir}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_TIMEOUT_S, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return read_run(run_dir)


def read_run(run_dir: Path) -> WholeRun:
    """A run that has ended."""
    rows = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    summary = json.loads((run_dir / "summary.json").read_text(encoding="utf-8"))
    return WholeRun(run_dir, summary, [json.loads(row) for row in rows])
