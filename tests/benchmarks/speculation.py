"""Tokens per second with and without drafting, for 1 to 32 running answers, on a trained 12-layer target.

    make bench NAME=speculation         or   python -m tests.benchmarks.speculation [--repeats 4]
                                                                                 [--running 1 2]

All engines (vLLM, bfloat16) are started first and take turns: for each number of running answers, each engine samples
the same prompts, at temperature 1, for `SECONDS`, before the next number. An answer that ends makes room for the next
prompt, so that as many run throughout: no long last answer weighs on the speed of many. An engine that waits for its
turn computes nothing. What matters most is there in `TWINS`, since two engines of one kind differ in speed for as
long as they live: engines without a drafter, with one that never learned, and with the trained one. In the latter the
fixed draft lengths and the governor take turns in one and the same engine (`switched_governor`). The ratio of a row
is against the mean of the engines without a drafter in the same turn.

Two requirements are judged at the end: the governor against the best fixed draft length, and against no drafter,
with the trained drafter and with one that never learned. Which fixed length is best is seen in the odd turns when the
even ones are judged, and the other way round: the best of several noisy figures is too good by chance.
"""

import argparse
import asyncio
import random
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from itertools import count, cycle
from pathlib import Path
from statistics import fmean, median, stdev

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from actors.engine import GenerationRequest, Sampling
from actors.speculation.settings import SpeculationSettings
from actors.speculation.step_record import StepRecord
from actors.vllm_engine import VllmEngine
from tests.benchmarks.deep_drafter import DeepDrafter, deep_drafter, started
from tests.benchmarks.deep_target import LONGEST, deep_target, end_of_text, questions
from tests.benchmarks.report import finish
from tests.benchmarks.switched_governor import GOVERNED, Switch

BATCHES = (1, 2, 4, 8, 16, 32)
LENGTHS = (0, 1, 2, 4)
TWINS = 2
SECONDS = 2.5
"""Of a turn."""
PROMPTS = 64
"""Of a turn; when they are used up they come again, which takes an engine faster than any here."""
GROUP = 4
"""Answers to each prompt, asked for one after the other: a drafter may learn from the first for the next."""
NONE, SUFFIX, UNTRAINED = "no drafter", "suffix", "governor, untrained drafter"
FIXED = (NONE, *(f"K={k}" for k in LENGTHS[1:]))
COLOURS = {
    **dict(zip(FIXED[1:], ("#56B4E9", "#0072B2", "#004C73"), strict=True)),
    SUFFIX: "#E69F00",
    GOVERNED: "#009E73",
    UNTRAINED: "#BBBBBB",
}


@dataclass(frozen=True, slots=True)
class Contender:
    """One way of drafting in one engine, of those that are alike the `twin`-th; `switch` chooses among an engine's."""

    way: str
    twin: int
    engine: VllmEngine
    switch: Switch | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """One turn of one contender.

    Attributes:
        ratio: of tokens/s against the engines without a drafter in the same turn.
        acceptance_length: tokens that a pass brought each answer.
        time_by_k: share of the time spent in steps with each draft length.
        caught_up: share of the time in which the drafter read what it had left out.
        read_along: share of the time in steps without drafts in which the drafter's pass ran all the same.
    """

    way: str
    twin: int
    running: int
    repeat: int
    tokens_per_s: float
    ratio: float
    acceptance_length: float
    time_by_k: dict[int, float]
    caught_up: float
    read_along: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--running", type=int, nargs="+", default=BATCHES, help="numbers of running answers")
    parser.add_argument("--figure", type=Path, help="draw the ratios into this SVG file")
    arguments = parser.parse_args()
    target = deep_target()
    rows = asyncio.run(measure(target, deep_drafter(target), arguments.running, arguments.repeats))
    conclude(rows)
    if arguments.figure:
        draw(rows, arguments.figure)


async def measure(target: Path, drafter: DeepDrafter, batches: Sequence[int], repeats: int) -> list[Measured]:
    with tempfile.TemporaryDirectory() as scratch:
        async with AsyncExitStack() as stack:
            contenders = await all_started(target, drafter, Path(scratch), stack)
            return await turns(contenders, target, batches, repeats)


async def all_started(target: Path, drafter: DeepDrafter, scratch: Path, stack: AsyncExitStack) -> list[Contender]:
    """Every way of drafting that is compared; `stack` shuts their engines down."""

    async def engine(settings: SpeculationSettings | None = None) -> VllmEngine:
        one = await started(target, settings)
        stack.push_async_callback(one.shutdown)
        return one

    contenders = [Contender(SUFFIX, 0, await engine(SpeculationSettings("suffix", None, LENGTHS)))]
    for twin in range(TWINS):
        contenders.append(Contender(NONE, twin, await engine()))
        untrained = SpeculationSettings("eagle", str(drafter.untrained), LENGTHS)
        contenders.append(Contender(UNTRAINED, twin, await engine(untrained)))
        switch = Switch(scratch / f"switch-{twin}", LENGTHS)
        settings = SpeculationSettings(
            "eagle",
            str(drafter.trained),
            LENGTHS,
            governor="tests.benchmarks.switched_governor:switched",
            governor_options={"switch": str(switch.path)},
        )
        trained = await engine(settings)
        contenders += [Contender(way, twin, trained, switch) for way in switch.names]
    return contenders


def asked(target: Path, count: int, seed: int) -> list[tuple[int, ...]]:
    """`count` prompts, each `GROUP` times."""
    return [prompt for prompt in questions(target, count // GROUP, seed) for _ in range(GROUP)]


async def turns(contenders: Sequence[Contender], target: Path, batches: Sequence[int], repeats: int) -> list[Measured]:
    """Every contender at every number of running answers, in turn; what the governors learn on the way they keep."""
    rows: list[Measured] = []
    end, chance = end_of_text(target), random.Random(0)
    for repeat in range(-1, repeats):  # the first round warms up, and is the governors' time to learn
        for running in batches:
            prompts = asked(target, PROMPTS, seed=3 + repeat)
            speeds: dict[int, tuple[float, Sequence[StepRecord]]] = {}
            order = list(range(len(contenders)))
            chance.shuffle(order)  # the machine's speed drifts: no way shall always come first
            for index in order:
                one = contenders[index]
                if one.switch is not None:
                    one.switch.turn_to(one.way)
                speed = await tokens_per_s(one.engine, prompts, running, f"{repeat}/{running}/{index}", end, repeat)
                speeds[index] = speed, (await one.engine.speculation_stats()).steps
            plain = fmean(speeds[index][0] for index in order if contenders[index].way == NONE)
            if repeat >= 0:
                rows += [row_of(one, running, repeat, *speeds[i], plain) for i, one in enumerate(contenders)]
                for row in rows[-len(contenders) :]:
                    print(
                        f"{running:>3} running  {row.way:<28} {row.tokens_per_s:8.0f} tokens/s  {row.ratio:5.2f}x  "
                        f"{row.acceptance_length:.2f} tokens a pass  time by K {row.time_by_k}",
                        flush=True,
                    )
    return rows


async def tokens_per_s(
    engine: VllmEngine, prompts: Sequence[tuple[int, ...]], running: int, name: str, end: int, seed: int
) -> float:
    """Of `running` answers at a time, over `SECONDS` from an empty engine; what runs then is aborted, and counts."""
    numbered, live, over = zip(count(), cycle(prompts)), set[str](), False

    async def place() -> int:
        tokens = 0
        while not over:
            number, prompt = next(numbered)
            live.add(request_id := f"{name}/{number}")
            sampling = Sampling(LONGEST, seed=seed + number, stop_token_ids=(end,))
            tokens += len((await engine.generate(GenerationRequest(request_id, prompt, sampling))).token_ids)
            live.remove(request_id)
        return tokens

    began = time.perf_counter()
    places = [asyncio.create_task(place()) for _ in range(running)]
    await asyncio.sleep(SECONDS)
    over, seconds = True, time.perf_counter() - began
    await engine.abort(sorted(live))
    return sum(await asyncio.gather(*places)) / seconds


def row_of(
    one: Contender, running: int, repeat: int, speed: float, steps: Sequence[StepRecord], plain: float
) -> Measured:
    total, passes = sum(step.seconds for step in steps), sum(step.running for step in steps)

    def share(seconds: float) -> float:
        return round(seconds / total, 3) if total else 0.0

    by_k = {k: share(sum(step.seconds for step in steps if step.k == k)) for k in sorted({step.k for step in steps})}
    return Measured(
        one.way,
        one.twin,
        running,
        repeat,
        round(speed, 1),
        round(speed / plain, 3),
        round(sum(step.emitted for step in steps) / passes, 2) if passes else 1.0,
        by_k,
        share(sum(step.catch_up_s for step in steps)),
        share(sum(step.seconds for step in steps if step.k == 0 and step.attached)),
    )


def conclude(rows: Sequence[Measured]) -> None:
    """The table of medians, and what of the requirements holds, each with its standard error."""
    batches = sorted({row.running for row in rows})
    print(f"\n{'ratio to no drafter (median)':<30}" + "".join(f"{running:>14}" for running in batches))
    for way in dict.fromkeys(row.way for row in rows):
        cells = [spread(ratios(rows, way, n)) for n in batches]
        print(f"{way:<30}" + "".join(f"{cell:>14}" for cell in cells))
    against_best = {running: ratios_to_best(rows, running) for running in batches}
    untrained = {n: ratios(rows, UNTRAINED, n) for n in batches}
    print("governor / best fixed choice: " + listed(against_best))
    print("governor with an untrained drafter / no drafter: " + listed(untrained))
    governed = [median(ratios(rows, GOVERNED, n)) for n in batches[:2]]
    judged = {"against_best": against_best, "untrained": untrained}
    finish(
        "speculation",
        ratio=min(governed),
        unit=f"tokens/s with the governor / without a drafter, the smallest of {batches[:2]} running answers",
        rows=[*map(asdict, rows), {name: {n: median(r) for n, r in part.items()} for name, part in judged.items()}],
        seed=0,
    )


def ratios(rows: Sequence[Measured], way: str, running: int) -> list[float]:
    """Those of every turn."""
    return [row.ratio for row in rows if (row.way, row.running) == (way, running)]


def ratios_to_best(rows: Sequence[Measured], running: int) -> list[float]:
    """The governor's speed over the best fixed choice's in the same turn, and the same engine where that drafts."""
    here = [row for row in rows if row.running == running]
    found: list[float] = []
    for parity in (0, 1):
        judged = [row for row in here if row.repeat % 2 == parity]
        others = [row for row in here if row.repeat % 2 != parity] or judged
        best = max(FIXED, key=lambda way: median(ratios(others, way, running)))
        fixed = {(row.repeat, row.twin): row.ratio for row in judged if row.way == best}
        for row in judged:
            if row.way == GOVERNED:
                found.append(row.ratio / (1.0 if best == NONE else fixed[row.repeat, row.twin]))
    return found


def spread(found: Sequence[float]) -> str:
    """Median and standard error."""
    error = 1.2533 * stdev(found) / len(found) ** 0.5 if len(found) > 1 else 0.0
    return f"{median(found):.2f} ({error:.2f})"


def listed(found: Mapping[int, Sequence[float]]) -> str:
    return ", ".join(f"{running}: {spread(each)}" for running, each in found.items())


def draw(rows: Sequence[Measured], path: Path) -> None:
    """Ratio to no drafter by the number of running answers: medians as bars, single turns as dots."""
    plt.rcParams.update({"svg.hashsalt": "paceline", "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = plt.subplots(figsize=(8, 3.2), layout="constrained")
    width, batches = 0.8 / len(COLOURS), sorted({row.running for row in rows})
    for number, (name, colour) in enumerate(COLOURS.items()):
        for place, running in enumerate(batches):
            found = ratios(rows, name, running)
            x = place + (number - (len(COLOURS) - 1) / 2) * width
            axes.bar(x, median(found), width * 0.9, color=colour, label=None if place else name)
            axes.plot([x] * len(found), found, ".", color="black", markersize=3)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set(xlabel="running answers", ylabel="tokens/s, no drafter = 1")
    axes.set_xticks(range(len(batches)), [str(running) for running in batches])
    axes.legend(frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(0, 1))
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
