"""Paceline against TRL's GRPOTrainer: samples per second and reward, side by side on this machine.

    make bench NAME=peers            or   python -m tests.benchmarks.peers [--steps 20] [--repeats 3]

Both train the quickstart's starter model on the quickstart's prompts, with the same samples per step, lengths,
learning rate and loss, and with Paceline's filters off. TRL is run once in each of several configurations; its fastest
is then run alternately with Paceline. Start-up, the first steps (warm-up) and Paceline's last ones (they only empty its
pipeline) are not counted in samples/s; start-up is reported apart. The headline is the median over the repeats of
Paceline's samples/s divided by TRL's.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median

from orchestrator.config import Recipe
from orchestrator.data.starter import ensure_starter
from orchestrator.recipe import dump_recipe, load_recipe
from tests.benchmarks.report import finish
from tests.benchmarks.trl_peer import VARIANTS

WARM_UP = 3
"""Steps at the start that are not timed: just-in-time work, cold caches."""
SELECTION_STEPS = WARM_UP + 3
REWARD_OVER = 4
"""Last steps whose mean reward is compared: both have then seen equal samples."""
MIN_STEPS = 10
RUN_TIMEOUT_S = 1800


@dataclass(frozen=True, slots=True)
class Measured:
    """One run of one system."""

    system: str
    configuration: str
    samples_per_s: float
    reward_last: float
    mean_length: float
    startup_s: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.steps < MIN_STEPS:
        parser.error(f"--steps must be at least {MIN_STEPS}")
    model = ensure_starter(None, lambda report: None)

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        rows = try_variants(folder, model, arguments.seed)
        chosen = max(rows, key=lambda row: row.samples_per_s).configuration
        ratios: list[float] = []
        for repeat in range(arguments.repeats):
            seed = arguments.seed + repeat
            ours = run_paceline(folder, model, steps=arguments.steps, seed=seed)
            peer = run_trl(folder, model, chosen, steps=arguments.steps, seed=seed)
            rows += [ours, peer]
            ratios.append(ours.samples_per_s / peer.samples_per_s)
            say(
                f"repeat {repeat + 1}: Paceline {ours.samples_per_s:.1f}, TRL ({chosen}) {peer.samples_per_s:.1f} "
                f"samples/s, ratio {ratios[-1]:.2f}; reward {ours.reward_last:.3f} against {peer.reward_last:.3f}"
            )
    say(f"ratio: median {median(ratios):.2f}, from {min(ratios):.2f} to {max(ratios):.2f}")
    finish(
        "peers",
        ratio=round(median(ratios), 3),
        unit="samples/s of Paceline / samples/s of TRL's best configuration",
        rows=[*map(asdict, rows), {"ratios": [round(ratio, 3) for ratio in ratios]}],
        seed=arguments.seed,
    )


def try_variants(folder: Path, model: Path, seed: int) -> list[Measured]:
    """A short run of TRL in each configuration."""
    rows = []
    for name in VARIANTS:
        rows.append(run_trl(folder, model, name, steps=SELECTION_STEPS, seed=seed))
        say(f"TRL {name}: {rows[-1].samples_per_s:.1f} samples/s")
    return rows


def shared_recipe(folder: Path, model: Path, steps: int, seed: int) -> tuple[Recipe, Path]:
    """The recipe that both systems run, and the file that holds it."""
    recipe = load_recipe(
        "quickstart",
        [
            f"model={model}",
            f"seed={seed}",
            f"run_dir={folder / f'run-{seed}-{time.monotonic_ns()}'}",
            f"trainer.steps={steps}",
            "algorithm.drop_zero_variance=false",
            "data.eval_size=8",
        ],
    )
    path = folder / f"recipe-{time.monotonic_ns()}.yaml"
    path.write_text(dump_recipe(recipe), encoding="utf-8")
    return recipe, path


def run_paceline(folder: Path, model: Path, *, steps: int, seed: int) -> Measured:
    recipe, path = shared_recipe(folder, model, steps, seed)
    began = time.time()
    run([sys.executable, "-m", "orchestrator", "train", str(path)])
    assert recipe.run_dir is not None
    rows = [json.loads(line) for line in (Path(recipe.run_dir) / "metrics.jsonl").read_text().splitlines()]
    return measured(
        recipe,
        "paceline",
        f"max_staleness={recipe.rollout.max_staleness}, {recipe.trainer.dtype}",
        seconds=[row["seconds"] for row in rows],
        rewards=[row["reward"] for row in rows],
        lengths=[row["response_tokens/mean"] for row in rows],
        startup_s=rows[0]["time"] - rows[0]["seconds"] - began,
    )


def run_trl(folder: Path, model: Path, variant: str, *, steps: int, seed: int) -> Measured:
    recipe, path = shared_recipe(folder, model, steps, seed)
    began = time.perf_counter()
    peer = [sys.executable, "-m", "tests.benchmarks.trl_peer"]
    output = run([*peer, str(path), str(model), variant, str(folder / "trl")])
    wall = time.perf_counter() - began
    result = json.loads(output.splitlines()[-1])
    return measured(
        recipe,
        "trl",
        variant,
        seconds=result["seconds"],
        rewards=result["rewards"],
        lengths=result["lengths"],
        startup_s=wall - sum(result["seconds"]),
    )


def measured(
    recipe: Recipe,
    system: str,
    configuration: str,
    *,
    seconds: Sequence[float],
    rewards: Sequence[float],
    lengths: Sequence[float],
    startup_s: float,
) -> Measured:
    # An asynchronous run samples ahead: its last steps only empty the pipeline, and would count work done before.
    drain = recipe.rollout.max_staleness if system == "paceline" else 0
    timed = seconds[WARM_UP : len(seconds) - drain]
    samples = len(timed) * recipe.trainer.prompts_per_step * recipe.rollout.group_size
    return Measured(
        system,
        configuration,
        round(samples / sum(timed), 2),
        round(fmean(rewards[-REWARD_OVER:]), 4),
        round(fmean(lengths), 1),
        round(startup_s, 1),
    )


def run(command: Sequence[str]) -> str:
    """Standard output of a command.

    Raises:
        SystemExit: it failed; its last lines are shown.
    """
    done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_TIMEOUT_S, check=False)
    if done.returncode != 0:
        say(done.stdout[-2000:] + done.stderr[-4000:])
        raise SystemExit(f"failed: {' '.join(command)}")
    return done.stdout


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
