"""The long tail with and without speculation: `longtail --speculation`.

The 12-layer target of `deep_target` trains on its own task, whose answers have their natural lengths: the longest are
many times as long as most, and alone for most of a synchronous step. Runs with speculation begin with the drafter of
`deep_drafter`, which goes on learning (``speculation: adaptive``). All else is equal; the learning rate is next to
nothing, because policies that learn from different samples soon give answers of different lengths, and would be
compared by those. Reported: samples/s and tokens/s, the ratio to the same mode without speculation, staleness, and what
was drafted. Both synchronous runs give every core to whoever works.
"""

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median

from tests.benchmarks.deep_drafter import deep_drafter
from tests.benchmarks.deep_target import GROUP, PROMPTS, deep_target, run_settings
from tests.benchmarks.report import finish
from tests.benchmarks.whole_run import WholeRun, train_quickstart

WARM_UP = 3
SYNCHRONOUS = "synchronous"
STALENESS: Mapping[str, int] = {
    SYNCHRONOUS: 0,
    "asynchronous, staleness 1": 1,
    "asynchronous, staleness 2": 2,
    "asynchronous, staleness 4": 4,
}


@dataclass(frozen=True, slots=True)
class Measured:
    """One run. `idle_*` are shares of the training time; lengths are of all answers of the run, in tokens."""

    mode: str
    speculation: bool
    seed: int
    samples_per_s: float
    tokens_per_s: float
    idle_engine: float
    idle_learner: float
    staleness_mean: float
    acceptance_length: float
    drafting_share: float
    drafter_training_s: float
    length_median: float
    length_max: int


def compare_speculation(modes: Sequence[str], steps: int, repeats: int, seed: int) -> None:
    """Run these modes with and without speculation, in turn, and print the table and the closing line."""
    target = deep_target()
    checkpoint = deep_drafter(target).trained
    rows: list[Measured] = []
    with tempfile.TemporaryDirectory() as scratch:
        for repeat in range(repeats):
            for mode in modes:
                for speculation in (False, True):
                    drafter = f"{{checkpoint: {checkpoint}}}" if speculation else "off"
                    settings = settings_of(target, mode, steps=steps, seed=seed + repeat)
                    run_dir = Path(scratch) / f"run-{len(rows)}"
                    ran = train_quickstart([*settings, f"speculation={drafter}"], run_dir)
                    rows.append(measured(ran, mode, speculation, seed + repeat))
                    print(json.dumps(asdict(rows[-1])), flush=True)
    print_table(modes, rows)
    ratios = ratios_of(rows, modes[0])
    finish(
        "longtail --speculation",
        ratio=round(median(ratios), 3),
        unit=f"samples/s of {modes[0]} training with speculation / without",
        rows=[*map(asdict, rows), {"ratios": {mode: ratios_of(rows, mode) for mode in modes}}],
        seed=seed,
    )


def settings_of(target: Path, mode: str, *, steps: int, seed: int) -> list[str]:
    """Of a run without speculation."""
    cores = os.cpu_count() if mode == SYNCHRONOUS else 1
    return [
        *run_settings(target, steps=steps, seed=seed),
        "data.eval_size=0",
        f"topology.learner.threads={cores}",
        "trainer.learning_rate=1e-9",
        "algorithm.drop_zero_variance=false",
        f"rollout.max_staleness={STALENESS[mode]}",
        f"topology.rollout.threads={cores}",
    ]


def measured(ran: WholeRun, mode: str, speculation: bool, seed: int) -> Measured:
    timed = ran.steps[WARM_UP : len(ran.steps) - STALENESS[mode]]
    idle, staleness, drafts = (ran.part(name) for name in ("idle_fraction", "staleness", "speculation"))
    lengths, seconds = lengths_of(ran.folder), sum(row["seconds"] for row in timed)
    return Measured(
        mode,
        speculation,
        seed,
        round(len(timed) * PROMPTS * GROUP / seconds, 2),
        round(sum(row["response_tokens/mean"] for row in timed) * PROMPTS * GROUP / seconds, 1),
        idle["rollout-0"],
        idle["learner"],
        round(staleness["mean"], 3),
        round(drafts["acceptance_length"], 3),
        round(fmean(row.get("speculation/drafting_share", 0.0) for row in timed), 3),
        drafts["training_s"],
        median(lengths),
        max(lengths),
    )


def lengths_of(run_dir: Path) -> list[int]:
    """Tokens of every sampled answer."""
    events = map(json.loads, (run_dir / "events.jsonl").read_text(encoding="utf-8").splitlines())
    return [sum(tokens for _, tokens in event["segments"]) for event in events if event["event"] == "sampled"]


def ratios_of(rows: Sequence[Measured], mode: str) -> list[float]:
    """Per seed: with speculation against without."""
    speed = {(row.seed, row.speculation): row.samples_per_s for row in rows if row.mode == mode}
    return [round(speed[seed, True] / speed[seed, False], 3) for seed in sorted({seed for seed, _ in speed})]


def print_table(modes: Sequence[str], rows: Sequence[Measured]) -> None:
    print(
        f"\nanswers: median {median(row.length_median for row in rows):.0f} tokens, "
        f"longest {max(row.length_max for row in rows)}\n"
        f"{'':<44} samples/s  ratio  tokens/s  idle engine/learner  staleness  tokens a pass  drafting"
    )
    for mode in modes:
        for speculation in (False, True):
            own = [row for row in rows if (row.mode, row.speculation) == (mode, speculation)]
            ratio = f"{median(ratios_of(rows, mode)):.2f}" if speculation else ""
            print(
                f"{mode + (', speculation' if speculation else ''):<44} {fmean(row.samples_per_s for row in own):9.1f}"
                f"  {ratio:>5}  {fmean(row.tokens_per_s for row in own):8.0f}"
                f"  {fmean(row.idle_engine for row in own):8.0%} /"
                f" {fmean(row.idle_learner for row in own):4.0%}     {fmean(row.staleness_mean for row in own):9.2f}"
                f"  {fmean(row.acceptance_length for row in own):13.2f}"
                f"  {fmean(row.drafting_share for row in own):8.0%}"
            )
