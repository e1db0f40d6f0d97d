"""Does it learn? The main algorithms on the quickstart's task, from one checkpoint, beside TRL's GRPO.

    make bench NAME=learning         or   python -m tests.benchmarks.learning [--steps 25] [--repeats 3] [--only grpo]
                                                                              [--rows FILE] [--held-out 128]

Every run trains the quickstart's model with the quickstart's settings; only those named in `METHODS` differ, and no
group is filtered away, so that after equally many steps every run has seen equally many samples. TRL's GRPOTrainer gets
the same prompts, rewards, lengths, learning rate and loss, in float32 as the quickstart. It samples with the newest
weights alone, and is compared with Paceline's GRPO where that does too; the other runs are asynchronous, as the
quickstart is, and some of their samples are two versions old. All are judged alike: by greedy answers to the same
held-out prompts, before and after, through Paceline's engine. The seed chooses the order of the prompts and what is
sampled. With `--figure` the rewards of the training samples are drawn, mean and range over the seeds. Runs may share
the machine with other work: nothing here is timed. All runs together take hours on two cores: `--rows` keeps each one's
row in a file, from which the next call goes on.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from orchestrator.data.starter import ensure_starter
from tests.benchmarks.report import finish
from tests.benchmarks.whole_run import RUN_TIMEOUT_S, WholeRun, train_quickstart

SYNCHRONOUS = "grpo, synchronous"
METHODS: Mapping[str, Mapping[str, object]] = {
    SYNCHRONOUS: {"rollout.max_staleness": 0},
    "grpo": {},
    "dr_grpo": {"algorithm.advantage": "dr_grpo"},
    "rloo": {"algorithm.advantage": "rloo"},
    "reinforce++": {"algorithm.advantage": "dr_grpo", "algorithm.advantage_norm": "batch_std"},
    "max_rl": {"algorithm.advantage": "max_rl"},
    "gspo": {
        "algorithm.surrogate": "gspo",
        "algorithm.aggregation": "sequence",
        "algorithm.clip_low": 0.003,
        "algorithm.clip_high": 0.004,
    },
    "cispo": {"algorithm.surrogate": "cispo"},
    "sapo": {"algorithm.surrogate": "sapo"},
    "nft": {"algorithm.surrogate": "nft"},
}
"""What a recipe sets to use a method; clip ranges of GSPO as in its paper (arXiv 2507.18071)."""
PEER, PEER_VARIANT = "TRL GRPO", "float32"
LAST = 5
"""Training steps whose rewards are averaged for the table."""
COLUMNS = 5


@dataclass(frozen=True, slots=True)
class Measured:
    """One run.

    Attributes:
        rewards: mean reward of the samples of each training step.
        held_out: share of held-out prompts solved before and after training.
        prompts: how many those are.
    """

    method: str
    seed: int
    rewards: list[float]
    held_out: list[float]
    prompts: int = 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--held-out", type=int, default=128, help="prompts that judge; many tell ends further apart")
    parser.add_argument("--only", nargs="+", choices=[*METHODS, PEER], default=[*METHODS, PEER])
    parser.add_argument("--figure", type=Path, help="draw the rewards into this SVG file")
    parser.add_argument("--rows", type=Path, help="JSON lines: runs found here are not made again, new ones are added")
    arguments = parser.parse_args()
    model = ensure_starter(None, lambda report: None)
    before = known_rows(arguments.rows, arguments.steps, arguments.held_out) if arguments.rows else {}
    rows: list[Measured] = []
    with tempfile.TemporaryDirectory() as scratch:
        for seed in range(arguments.repeats):
            for method in arguments.only:
                row = before.get((method, seed))
                if row is None:
                    run = trained_by_peer if method == PEER else trained
                    settings = settings_of(model, method, arguments.steps, seed, arguments.held_out)
                    row = Measured(method, seed, *run(settings, Path(scratch) / f"{len(rows)}"), arguments.held_out)
                    if arguments.rows:
                        with arguments.rows.open("a", encoding="utf-8") as file:
                            file.write(json.dumps(asdict(row)) + "\n")
                rows.append(row)
                print(json.dumps(asdict(row)), flush=True)
    print_table(rows)
    if arguments.figure:
        draw(rows, arguments.figure)
    ends = {method: fmean(row.held_out[1] for row in rows if row.method == method) for method in arguments.only}
    compared = {SYNCHRONOUS, PEER} <= set(ends)
    finish(
        "learning",
        ratio=round(ends[SYNCHRONOUS] - ends[PEER], 4) if compared else 0.0,
        unit="held-out accuracy after equal samples, Paceline's synchronous GRPO minus TRL's, mean over the seeds",
        rows=[*map(asdict, rows), {"ends": ends}],
        seed=0,
    )


def known_rows(path: Path, steps: int, prompts: int) -> dict[tuple[str, int], Measured]:
    """What was measured before over as many steps and held-out prompts, by method and seed."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    rows = [Measured(**json.loads(line)) for line in lines]
    return {(row.method, row.seed): row for row in rows if len(row.rewards) == steps and row.prompts == prompts}


def settings_of(model: Path, method: str, steps: int, seed: int, prompts: int) -> dict[str, object]:
    return {
        "model": model,
        "seed": seed,
        "trainer.steps": steps,
        "data.eval_size": prompts,
        "algorithm.drop_zero_variance": "false",
        **METHODS.get(method, {}),
    }


def trained(settings: Mapping[str, object], folder: Path) -> tuple[list[float], list[float]]:
    """By Paceline. Returns: the rewards by step, and the share of held-out prompts solved before and after."""
    ran = quickstart(settings, folder / "run")
    return [round(row["reward"], 4) for row in ran.steps], held_out(ran)


def trained_by_peer(settings: Mapping[str, object], folder: Path) -> tuple[list[float], list[float]]:
    """By TRL on the recipe that Paceline's GRPO runs; what it learned is judged by an untrained run of Paceline."""
    before = judged(settings, folder / "before")
    recipe, learned = before.folder / "config.yaml", folder / "model"
    command = [sys.executable, "-m", "tests.benchmarks.trl_peer", str(recipe), str(settings["model"]), PEER_VARIANT]
    done = subprocess.run(
        [*command, str(folder / "trl"), "--steps", str(settings["trainer.steps"]), "--save", str(learned)],
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(f"TRL failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    rewards = json.loads(done.stdout.splitlines()[-1])["rewards"]
    after = judged({**settings, "model": learned}, folder / "after")
    return [round(reward, 4) for reward in rewards], [held_out(before)[0], held_out(after)[0]]


def judged(settings: Mapping[str, object], run_dir: Path) -> WholeRun:
    """A run of one step: its accuracy at the start is the model's own."""
    return quickstart({**settings, "trainer.steps": 1}, run_dir)


def quickstart(settings: Mapping[str, object], run_dir: Path) -> WholeRun:
    return train_quickstart([f"{name}={value}" for name, value in settings.items()], run_dir)


def held_out(ran: WholeRun) -> list[float]:
    evaluated = ran.summary["eval"]
    assert isinstance(evaluated, dict)
    accuracy = evaluated["held_out"]
    return [round(accuracy["start"], 4), round(accuracy["end"], 4)]


def print_table(rows: Sequence[Measured]) -> None:
    methods = list(dict.fromkeys(row.method for row in rows))
    print(f"\n{'':<14} held-out before   after (by seed)             reward of the last {LAST} steps (by seed)")
    for method in methods:
        own = [row for row in rows if row.method == method]
        after = "  ".join(f"{row.held_out[1]:.3f}" for row in own)
        last = "  ".join(f"{fmean(row.rewards[-LAST:]):.3f}" for row in own)
        print(
            f"{method:<14} {fmean(row.held_out[0] for row in own):15.3f}   "
            f"{fmean(row.held_out[1] for row in own):.3f} ({after})   "
            f"{fmean(fmean(row.rewards[-LAST:]) for row in own):.3f} ({last})"
        )


def draw(rows: Sequence[Measured], path: Path) -> None:
    """Reward by training step, a panel for each method, with TRL's GRPO behind it in grey."""
    plt.rcParams.update({"svg.hashsalt": "paceline", "axes.spines.top": False, "axes.spines.right": False})
    methods = [method for method in dict.fromkeys(row.method for row in rows) if method != PEER]
    lines = -(-len(methods) // COLUMNS)
    figure, panels = plt.subplots(
        lines, COLUMNS, figsize=(10, 2.2 * lines), layout="constrained", sharex=True, sharey=True, squeeze=False
    )
    for panel in panels.flat[len(methods) :]:
        panel.set_visible(False)
    for method, panel in zip(methods, panels.flat, strict=False):
        for name, colour, label in ((PEER, "#999999", PEER), (method, "#0072B2", "the panel's method")):
            courses = [row.rewards for row in rows if row.method == name]
            if courses:
                steps = range(1, len(courses[0]) + 1)
                by_step = list(zip(*courses, strict=True))
                panel.fill_between(steps, [min(v) for v in by_step], [max(v) for v in by_step], color=colour, alpha=0.2)
                panel.plot(steps, [fmean(values) for values in by_step], color=colour, label=label)
        panel.set_title(method, loc="left", fontsize=10)
    for panel in panels[-1]:
        panel.set_xlabel("training step")
    for line in panels:
        line[0].set_ylabel("reward")
    panels[0][0].legend(frameon=False, fontsize=7)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
