"""What becomes of a drafter while its target learns: absent, frozen, retrained on decay, retrained always.

    make bench NAME=drafter_drift       or   python -m tests.benchmarks.drafter_drift [--steps 30] [--repeats 1]

The quickstart's model is trained by the quickstart's settings, which take it from guesses to worked-out answers three
times as long. Every run with a drafter begins with the same one, which learned from answers of the model as it was,
and drafts `LENGTH` tokens in every step, so that acceptance is seen throughout and means the same in every run.
Reported over the fifths of a run: acceptance length; and for the whole: seconds per step, seconds of the drafter's
training per step, held-out accuracy. With `--figure` the courses are drawn.
"""

import argparse
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from typing import TypeVar

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from transformers import AutoTokenizer

from orchestrator.data.prompts import open_source, prompt_text
from orchestrator.data.starter import ensure_starter
from orchestrator.recipe import load_recipe
from tests.benchmarks.deep_drafter import Task, deep_drafter
from tests.benchmarks.report import finish
from tests.benchmarks.whole_run import WholeRun, train_quickstart

Value = TypeVar("Value")
LENGTH = 2
PARTS = 5
ABSENT, FROZEN = "absent", "frozen"
DRAFTERS: Mapping[str, str] = {
    ABSENT: "off",
    FROZEN: "never",
    "retrained on decay": "decay",
    "retrained always": "always",
}
"""What becomes of the drafter, and the retrain policy that does it."""
COLOURS = {FROZEN: "#D55E00", "retrained on decay": "#0072B2", "retrained always": "#009E73"}


@dataclass(frozen=True, slots=True)
class Measured:
    """One run.

    Attributes:
        acceptance: median acceptance length in each fifth of the steps; 1 without a drafter.
        by_step: the acceptance length of each step; None where nothing was drafted, as in a step whose answers were all
            there already.
        training_s_per_step: seconds that the drafter trained and was judged, per step of the target.
    """

    drafter: str
    seed: int
    acceptance: list[float]
    by_step: list[float | None]
    seconds_per_step: float
    training_s_per_step: float
    versions: int
    accuracy: list[float]
    tokens: list[float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--figure", type=Path, help="draw the courses of acceptance into this SVG file")
    arguments = parser.parse_args()
    recipe = load_recipe("quickstart")
    checkpoint = deep_drafter(ensure_starter(), Task(questions, recipe.rollout.max_response_tokens, "float32")).trained
    rows: list[Measured] = []
    with tempfile.TemporaryDirectory() as scratch:
        for seed in range(arguments.repeats):
            for drafter in DRAFTERS:
                settings = settings_of(checkpoint, drafter, steps=arguments.steps, seed=seed)
                rows.append(measured(train_quickstart(settings, Path(scratch) / f"run-{len(rows)}"), drafter, seed))
                print(json.dumps(asdict(rows[-1])), flush=True)
    print_table(rows)
    if arguments.figure:
        draw(rows, arguments.figure)
    last = {name: fmean(row.acceptance[-1] for row in rows if row.drafter == name) for name in DRAFTERS}
    finish(
        "drafter_drift",
        ratio=round(last["retrained on decay"] / last[FROZEN], 3),
        unit="acceptance length in the last fifth, retrained on decay / frozen",
        rows=[*map(asdict, rows)],
        seed=0,
    )


def questions(target: Path, count: int, seed: int) -> list[tuple[int, ...]]:
    """The quickstart's prompts as token ids."""
    data, tokenizer = load_recipe("quickstart").data, AutoTokenizer.from_pretrained(target)
    source = open_source(data, seed)
    return [tuple(tokenizer.encode(prompt_text(source.next(), data.template))) for _ in range(count)]


def settings_of(checkpoint: Path, drafter: str, *, steps: int, seed: int) -> list[str]:
    settings = [f"seed={seed}", f"trainer.steps={steps}"]
    if drafter == ABSENT:
        return [*settings, "speculation=off"]
    section = (
        f"{{checkpoint: {checkpoint}, lengths: [0, {LENGTH}], draft_positions: {LENGTH}, governor: fixed, "
        f"governor_options: {{'1': {LENGTH}}}, retrain: {{policy: {DRAFTERS[drafter]}}}}}"
    )
    return [*settings, f"speculation={section}"]


def measured(ran: WholeRun, drafter: str, seed: int) -> Measured:
    lengths = [row.get("speculation/acceptance_length", 1.0) for row in ran.steps]
    by_step = [round(length, 3) if length > 1 else None for length in lengths]
    drafts, evaluated = ran.part("speculation"), ran.summary["eval"]
    assert isinstance(evaluated, dict)
    accuracy = evaluated["held_out"]
    tokens = [row["response_tokens/mean"] for row in ran.steps]
    return Measured(
        drafter,
        seed,
        [round(median([length for length in part if length is not None] or [1.0]), 3) for part in parts(by_step)],
        by_step,
        round(fmean(row["seconds"] for row in ran.steps[1:]), 3),
        round(drafts["training_s"] / len(ran.steps), 3),
        int(drafts["drafter_versions"]),
        [accuracy["start"], accuracy["end"]],
        [round(fmean(part), 1) for part in parts(tokens)],
    )


def parts(course: Sequence[Value]) -> list[Sequence[Value]]:
    """A course over steps in `PARTS` pieces of nearly the same length."""
    ends = [round(len(course) * part / PARTS) for part in range(PARTS + 1)]
    return [course[begin:end] for begin, end in pairwise(ends)]


def print_table(rows: Sequence[Measured]) -> None:
    print(f"\n{'':<20} acceptance length by fifths          s/step  drafter s/step  versions  accuracy        tokens")
    for name in DRAFTERS:
        for row in rows:
            if row.drafter == name:
                print(
                    f"{name:<20} {'  '.join(f'{length:.2f}' for length in row.acceptance):<36} "
                    f"{row.seconds_per_step:6.2f}  {row.training_s_per_step:14.2f}  {row.versions:8}  "
                    f"{row.accuracy[0]:.3f} -> {row.accuracy[1]:.3f}  {row.tokens[0]:.0f} -> {row.tokens[-1]:.0f}"
                )


def draw(rows: Sequence[Measured], path: Path) -> None:
    """Acceptance length by training step, a line for each way and seed."""
    plt.rcParams.update({"svg.hashsalt": "paceline", "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
    for name, colour in COLOURS.items():
        for number, row in enumerate(row for row in rows if row.drafter == name):
            lengths = [math.nan if length is None else length for length in row.by_step]
            axes.plot(range(1, len(lengths) + 1), lengths, color=colour, label=None if number else name)
    axes.set(xlabel="training step of the target", ylabel=f"tokens per pass at K = {LENGTH}")
    axes.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
