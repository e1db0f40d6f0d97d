"""The long tail: synchronous, one step off and asynchronous training, side by side on this machine.

    make bench NAME=longtail         or   python -m tests.benchmarks.longtail [--steps 20] [--repeats 3] [--speculation]

All run the quickstart's model on the quickstart's prompts through vLLM, with answer lengths that are replayed from one
log-normal sample whose longest is at least 8 times its median, so that every mode meets the same tail; the reward does
not see the length. What a mode has learned after equal samples is judged by its last policy's reward on held-out
prompts, not by that of its last batches, which older policies sampled. The synchronous rival runs twice, with the cores
shared out as in an asynchronous run and with every core for whoever works; the faster of the two is what the others are
compared with. Modes take turns within a repeat, and each repeat has a seed of its own. Start-up, the first steps and
the last ones, in which an asynchronous run only empties its pipeline, are not timed. With `--speculation` another pair
is compared: `longtail_speculation` says how.
"""

import argparse
import os
import random
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median, stdev

from orchestrator.data.starter import ensure_starter
from tests.benchmarks import longtail_speculation
from tests.benchmarks.report import finish
from tests.benchmarks.whole_run import train_quickstart

MEDIAN, SIGMA, LONGEST = 32, 0.85, 320
LENGTHS = 4096
WARM_UP = 3
"""Steps at the start that are not timed."""
HELD_OUT, ANSWERS = 128, 2
"""Held-out prompts, and answers to each, before the first step and after the last one."""
MIN_STEPS = 12

SYNCHRONOUS = ("synchronous", "synchronous, all cores for each")
HEADLINE = "asynchronous, staleness 4"
MODES: Mapping[str, tuple[str, ...]] = {
    SYNCHRONOUS[0]: ("rollout.max_staleness=0",),
    SYNCHRONOUS[1]: (
        "rollout.max_staleness=0",
        f"topology.rollout.threads={os.cpu_count()}",
        f"topology.learner.threads={os.cpu_count()}",
    ),
    "synchronous, streaming": ("rollout.max_staleness=0", "trainer.stream=true"),
    "one step off (staleness 1, no partial rollouts)": ("rollout.max_staleness=1", "rollout.partial=false"),
    "asynchronous, staleness 1": ("rollout.max_staleness=1",),
    "asynchronous, staleness 2, no partial rollouts": ("rollout.max_staleness=2", "rollout.partial=false"),
    "asynchronous, staleness 2": ("rollout.max_staleness=2",),
    "asynchronous, staleness 4, no partial rollouts": ("rollout.max_staleness=4", "rollout.partial=false"),
    HEADLINE: ("rollout.max_staleness=4",),
}


@dataclass(frozen=True, slots=True)
class Measured:
    """One run of one mode. `idle_*` are shares of the training time."""

    mode: str
    seed: int
    samples_per_s: float
    idle_engine: float
    idle_learner: float
    staleness_mean: float
    staleness_max: int
    reward_first: float
    reward_last: float
    mean_length: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", choices=list(MODES), metavar="MODE", help="names of the modes to run")
    parser.add_argument("--speculation", action="store_true", help="compare runs with and without speculation")
    arguments = parser.parse_args()
    if arguments.speculation:
        compared = [mode for mode in longtail_speculation.STALENESS if not arguments.only or mode in arguments.only]
        longtail_speculation.compare_speculation(compared, arguments.steps, arguments.repeats, arguments.seed)
        return
    if arguments.steps < MIN_STEPS:
        parser.error(f"--steps must be at least {MIN_STEPS}")
    model = ensure_starter(None, lambda report: None)
    modes = [name for name in MODES if not arguments.only or name in arguments.only]
    rows: list[Measured] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        lengths = folder / "lengths.txt"
        lengths.write_text("\n".join(map(str, draw_lengths(arguments.seed))) + "\n", encoding="utf-8")
        for repeat in range(arguments.repeats):
            for mode in modes:
                row = run(mode, folder, model, lengths, steps=arguments.steps, seed=arguments.seed + repeat)
                rows.append(row)
                print(f"seed {row.seed}  {mode:<50} {row.samples_per_s:7.1f} samples/s", flush=True)
    print_table(modes, rows)
    ratios = compare(rows)
    finish(
        "longtail",
        ratio=round(median(ratios), 3) if ratios else 0.0,
        unit=f"samples/s of '{HEADLINE}' / samples/s of the faster synchronous mode",
        rows=[*map(asdict, rows), {"ratios": [round(ratio, 3) for ratio in ratios]}],
        seed=arguments.seed,
    )


def draw_lengths(seed: int) -> list[int]:
    """A log-normal sample of answer lengths, cut at `LONGEST`.

    Raises:
        SystemExit: its tail is shorter than the benchmark is about.
    """
    chance = random.Random(seed)
    lengths = [min(LONGEST, max(1, round(chance.lognormvariate(0, SIGMA) * MEDIAN))) for _ in range(LENGTHS)]
    if max(lengths) < 8 * median(lengths):
        raise SystemExit(f"the longest answer, {max(lengths)}, is not 8 times the median, {median(lengths)}")
    return lengths


def run(mode: str, folder: Path, model: Path, lengths: Path, *, steps: int, seed: int) -> Measured:
    settings = [
        f"model={model}",
        f"seed={seed}",
        f"trainer.steps={steps}",
        f"rollout.replay_lengths={lengths}",
        f"rollout.max_response_tokens={LONGEST}",
        "reward.terms=[{name: 'tests.benchmarks.parity_reward:even_digits'}]",
        "algorithm.drop_zero_variance=false",
        f"data.eval_size={HELD_OUT}",
        f"eval.samples={ANSWERS}",
        "eval.temperature=1",
        *MODES[mode],
    ]
    ran = train_quickstart(settings, folder / f"run-{time.monotonic_ns()}")
    # The pipeline's depth in batches: what the last steps train on was sampled while others were timed.
    drain = next((int(s.split("=")[1]) for s in MODES[mode] if s.startswith("rollout.max_staleness")), 0)
    timed = ran.steps[WARM_UP : len(ran.steps) - drain]
    idle, staleness = ran.part("idle_fraction"), ran.part("staleness")
    samples = len(timed) * 16 * 8
    return Measured(
        mode,
        seed,
        round(samples / sum(row["seconds"] for row in timed), 2),
        idle["rollout-0"],
        idle["learner"],
        round(staleness["mean"], 3),
        int(staleness["max"]),
        ran.held_out_reward(step=0),
        ran.held_out_reward(step=steps),
        round(fmean(row["response_tokens/mean"] for row in ran.steps), 1),
    )


def compare(rows: Sequence[Measured]) -> list[float]:
    """Per seed: the headline mode against the faster synchronous one."""
    ratios = []
    for seed in sorted({row.seed for row in rows}):
        speed = {row.mode: row.samples_per_s for row in rows if row.seed == seed}
        rivals = [speed[mode] for mode in SYNCHRONOUS if mode in speed]
        if rivals and HEADLINE in speed:
            ratios.append(speed[HEADLINE] / max(rivals))
    if ratios:
        print(f"\nratio: median {median(ratios):.2f}, from {min(ratios):.2f} to {max(ratios):.2f}")
    return ratios


def print_table(modes: Sequence[str], rows: Sequence[Measured]) -> None:
    """One line per mode, means over the seeds; rewards with their spread."""
    print(f"\n{'':<50} samples/s (range)      idle engine/learner  staleness mean/max  reward first -> last (sd)")
    for mode in modes:
        own = [row for row in rows if row.mode == mode]
        speeds = [row.samples_per_s for row in own]
        last = [row.reward_last for row in own]
        spread = stdev(last) if len(last) > 1 else 0.0
        print(
            f"{mode:<50} {fmean(speeds):6.1f} ({min(speeds):.1f}-{max(speeds):.1f})   "
            f"{fmean(row.idle_engine for row in own):6.0%} / {fmean(row.idle_learner for row in own):.0%}   "
            f"{fmean(row.staleness_mean for row in own):9.2f} / {max(row.staleness_max for row in own)}   "
            f"{fmean(row.reward_first for row in own):8.3f} -> {fmean(last):.3f} ({spread:.3f})"
        )


if __name__ == "__main__":
    main()
