"""What a run of several stages, or of supervised steps, reached, on the screen."""

from collections.abc import Mapping
from pathlib import Path

from orchestrator.progress import Progress
from orchestrator.report import print_result
from orchestrator.stages.directory import summary_of


def print_any(folder: Path, progress: Progress) -> str:
    """Say how the run in this folder went, of whatever kind; returns its status."""
    summary = summary_of(folder)
    stages = summary.get("stages")
    if not isinstance(stages, list) and "loss_first" not in summary:
        return print_result(folder, progress)
    status = str(summary["status"])
    style = "bold green" if status == "completed" else "bold"
    progress.say(f"{status} after {summary['steps']} steps, {summary['wall_s']:.0f} s", style)
    for stage in stages if isinstance(stages, list) else [{"name": "sft", **summary}]:
        progress.say(f"  {stage_line(stage)}")
    progress.say(f"  run                {folder}")
    if status == "completed":
        progress.say(f"  model              {folder / 'model'}")
    return status


def stage_line(stage: Mapping[str, object]) -> str:
    """One stage in one line: how it ended, and how what it learned by moved."""
    moved: list[str] = []
    for name, first, last in (("loss", "loss_first", "loss_last"), ("reward", "reward_first", "reward_last")):
        if isinstance(stage.get(first), float) and isinstance(stage.get(last), float):
            moved.append(f"{name} {stage[first]:.3f} -> {stage[last]:.3f}")
    evals = stage.get("eval")
    for name, value in (evals if isinstance(evals, dict) else {}).items():
        moved.append(f"{name} accuracy {value['start']:.3f} -> {value['end']:.3f}")
    return "  ".join([f"{stage['name']:<16} {stage['status']}, {stage.get('steps', 0)} steps", *moved])
