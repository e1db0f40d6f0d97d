"""What a run reached, where it lies, and what its longest answers cost, on the screen."""

import json
from pathlib import Path

from orchestrator.analysis.lineage import read_lineage
from orchestrator.analysis.reward_report import reward_trouble
from orchestrator.analysis.speculation_report import read_speculation, render_speculation, speculation_report
from orchestrator.analysis.tail_report import render_text, tail_report
from orchestrator.checkpoints import has_checkpoint
from orchestrator.errors import SettingError
from orchestrator.progress import Progress
from orchestrator.run_events import read_events


def print_result(folder: Path, progress: Progress) -> str:
    """Say how the run in this folder went; returns its status."""
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    status = str(summary["status"])
    good = status == "completed"
    headline = f"{status} after {summary['steps']} steps, {summary['wall_s']:.0f} s"
    progress.say(headline, "bold green" if good else "bold")
    for name, value in summary["eval"].items():
        rise = value["end"] - value["start"]
        progress.say(f"  {name} accuracy  {value['start']:.3f} -> {value['end']:.3f}  ({rise:+.3f})", "bold")
    if summary["reward_first"] is not None:
        progress.say(f"  training reward    {summary['reward_first']:.3f} -> {summary['reward_last']:.3f}")
    prompts = ", ".join(f"{count} {end}" for end, count in summary["prompts"].items())
    progress.say(f"  prompts            {prompts}")
    sync = summary["weight_sync"]
    progress.say(f"  weight syncs       {sync['attested']} of {sync['count']} attested")
    idle = ", ".join(f"{actor} {share:.0%}" for actor, share in summary["idle_fraction"].items())
    progress.say(f"  speed              {summary['samples_per_s']:.1f} samples/s; idle: {idle or 'not measured'}")
    progress.say(f"  run                {folder}")
    if not good and has_checkpoint(folder / "checkpoints"):
        progress.say(f"  goes on by         paceline resume {folder}")
    if good:
        progress.say(f"  model              {folder / 'model'}")
        progress.say(f"  trace              {folder / 'trace.json'}  (open it in ui.perfetto.dev)")
        print_details(folder, progress)
    return status


def print_details(folder: Path, progress: Progress) -> None:
    """Where rewards failed, what drafting brought, what the longest answers cost, and what other policies would save.

    Raises:
        SettingError: the folder holds no run.
    """
    stages = sorted(folder.glob("stages/*/events.jsonl"))
    if stages:
        raise SettingError("RUN", f"{folder} is a run of stages", f"give one of them, such as {stages[-1].parent}")
    if not (folder / "events.jsonl").is_file():
        raise SettingError("RUN", f"{folder} holds no run", "give the run_dir of a run, such as runs/quickstart-...")
    trouble = reward_trouble(read_events(folder / "events.jsonl"))
    if trouble:
        progress.say("Rewards", "bold")
        for line in trouble:
            progress.say(f"  {line}")
    speculation = speculation_report(read_speculation(folder))
    if speculation is not None:
        progress.say("Speculation", "bold")
        for line in render_speculation(speculation):
            progress.say(f"  {line}")
    progress.say("The tail", "bold")
    for line in render_text(tail_report(read_lineage(folder))):
        progress.say(f"  {line}")
