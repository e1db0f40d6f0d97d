"""Tokens per second with and without drafting, for 1 to 32 running answers, on a trained 12-layer target.

    make bench NAME=speculation         or   python -m tests.benchmarks.speculation [--repeats 3]

All engines (vLLM, bfloat16) are started first, one for each way of drafting, and take turns: for each number of running
answers, each engine samples the same prompts, at temperature 1, for `SECONDS`, before the next number. An answer that
ends makes room for the next prompt, so that as many run throughout: no long last answer weighs on the speed of many.
An engine that waits for its turn computes nothing. The ratio of a row is against the engine without a drafter in the
same turn.
Two requirements are judged at the end: the governor against the best fixed draft length, and against no drafter,
with the trained drafter and with one that never learned.
"""

import argparse
import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import count, cycle
from pathlib import Path
from statistics import median

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

BATCHES = (1, 2, 4, 8, 16, 32)
LENGTHS = (0, 1, 2, 4)
SECONDS = 3.0
"""Of a turn."""
PROMPTS = 64
"""Of a turn; when they are used up they come again, which takes an engine faster than any here."""
GROUP = 4
"""Answers to each prompt, asked for one after the other: a drafter may learn from the first for the next."""
COLOURS = ("#56B4E9", "#0072B2", "#004C73", "#E69F00", "#009E73", "#BBBBBB")
NONE, GOVERNED, UNTRAINED = "no drafter", "governor", "governor, untrained drafter"


@dataclass(frozen=True, slots=True)
class Measured:
    """One turn of one engine.

    Attributes:
        ratio: of tokens/s against the engine without a drafter in the same turn.
        acceptance_length: tokens that a pass brought each answer.
        time_by_k: share of the time spent in steps with each draft length.
        caught_up: share of the time in which the drafter read what it had left out.
        read_along: share of the time in steps without drafts in which the drafter's pass ran all the same.
    """

    way: str
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
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--figure", type=Path, help="draw the ratios into this SVG file")
    arguments = parser.parse_args()
    target = deep_target()
    rows = asyncio.run(measure(target, deep_drafter(target), arguments.repeats))
    conclude(rows, list(dict.fromkeys(row.way for row in rows)))
    if arguments.figure:
        draw(rows, arguments.figure)


async def measure(target: Path, drafter: DeepDrafter, repeats: int) -> list[Measured]:
    engines = {NONE: await started(target)}
    for way, settings in ways(str(drafter.trained), str(drafter.untrained)).items():
        engines[way] = await started(target, settings)
    try:
        return await turns(engines, target, repeats)
    finally:
        for engine in engines.values():
            await engine.shutdown()


def ways(trained: str, untrained: str) -> dict[str, SpeculationSettings]:
    """Every way of drafting that is compared."""
    eagle = SpeculationSettings("eagle", trained, LENGTHS)
    fixed = {
        f"K={k}": SpeculationSettings("eagle", trained, (0, k), governor="fixed", governor_options={"1": k})
        for k in LENGTHS[1:]
    }
    return {
        **fixed,
        "suffix": SpeculationSettings("suffix", None, LENGTHS),
        GOVERNED: eagle,
        UNTRAINED: SpeculationSettings("eagle", untrained, LENGTHS),
    }


def asked(target: Path, count: int, seed: int) -> list[tuple[int, ...]]:
    """`count` prompts, each `GROUP` times."""
    return [prompt for prompt in questions(target, count // GROUP, seed) for _ in range(GROUP)]


async def turns(engines: Mapping[str, VllmEngine], target: Path, repeats: int) -> list[Measured]:
    """Every engine at every number of running answers, in turn; what the governors learn on the way they keep."""
    rows: list[Measured] = []
    end, chance = end_of_text(target), random.Random(0)
    for repeat in range(-1, repeats):  # the first round warms up, and is the governors' time to learn
        for running in BATCHES:
            prompts = asked(target, PROMPTS, seed=3 + repeat)
            speeds: dict[str, tuple[float, Sequence[StepRecord]]] = {}
            order = list(engines)
            chance.shuffle(order)  # the machine's speed drifts: no way shall always come first
            for way in order:
                speed = await tokens_per_s(engines[way], prompts, running, f"{repeat}/{running}", end, repeat)
                speeds[way] = speed, (await engines[way].speculation_stats()).steps
            if repeat >= 0:
                rows += [row_of(way, running, repeat, *speeds[way], speeds[NONE][0]) for way in engines]
                for row in rows[-len(engines) :]:
                    print(
                        f"{running:>3} running  {row.way:<28} {row.tokens_per_s:8.0f} tokens/s  {row.ratio:5.2f}x  "
                        f"{row.acceptance_length:.2f} tokens a pass  time by K {row.time_by_k}"
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


def row_of(way: str, running: int, repeat: int, speed: float, steps: Sequence[StepRecord], plain: float) -> Measured:
    total, passes = sum(step.seconds for step in steps), sum(step.running for step in steps)

    def share(seconds: float) -> float:
        return round(seconds / total, 3) if total else 0.0

    by_k = {k: share(sum(step.seconds for step in steps if step.k == k)) for k in sorted({step.k for step in steps})}
    return Measured(
        way,
        running,
        repeat,
        round(speed, 1),
        round(speed / plain, 3),
        round(sum(step.emitted for step in steps) / passes, 2) if passes else 1.0,
        by_k,
        share(sum(step.catch_up_s for step in steps)),
        share(sum(step.seconds for step in steps if step.k == 0 and step.attached)),
    )


def conclude(rows: Sequence[Measured], names: Sequence[str]) -> None:
    """The table of medians, and what of the requirements holds."""
    middle = {
        (way, running): median(row.ratio for row in rows if (row.way, row.running) == (way, running))
        for way in names
        for running in BATCHES
    }
    print(f"\n{'ratio to no drafter (median)':<30}" + "".join(f"{running:>8}" for running in BATCHES))
    for way in names:
        print(f"{way:<30}" + "".join(f"{middle[way, running]:>8.2f}" for running in BATCHES))
    fixed = [NONE, *(f"K={k}" for k in LENGTHS[1:])]
    against_best = {
        running: middle[GOVERNED, running] / max(middle[way, running] for way in fixed) for running in BATCHES
    }
    untrained = {running: middle[UNTRAINED, running] for running in BATCHES}
    print("governor / best fixed choice: " + ", ".join(f"{n}: {ratio:.2f}" for n, ratio in against_best.items()))
    print(
        "governor with an untrained drafter / no drafter: " + ", ".join(f"{n}: {r:.2f}" for n, r in untrained.items())
    )
    finish(
        "speculation",
        ratio=min(middle[GOVERNED, 1], middle[GOVERNED, 2]),
        unit="tokens/s with the governor / without a drafter, the smaller of 1 and 2 running answers",
        rows=[*map(asdict, rows), {"against_best": against_best, "untrained": untrained}],
        seed=0,
    )


def draw(rows: Sequence[Measured], path: Path) -> None:
    """Ratio to no drafter by the number of running answers: medians as bars, single turns as dots."""
    plt.rcParams.update({"svg.hashsalt": "paceline", "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = plt.subplots(figsize=(8, 3.2), layout="constrained")
    names = [name for name in dict.fromkeys(row.way for row in rows) if name != NONE]
    width = 0.8 / len(names)
    for number, (name, colour) in enumerate(zip(names, COLOURS, strict=True)):
        for place, running in enumerate(BATCHES):
            ratios = [row.ratio for row in rows if (row.way, row.running) == (name, running)]
            x = place + (number - (len(names) - 1) / 2) * width
            axes.bar(x, median(ratios), width * 0.9, color=colour, label=None if place else name)
            axes.plot([x] * len(ratios), ratios, ".", color="black", markersize=3)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set(xlabel="running answers", ylabel="tokens/s, no drafter = 1")
    axes.set_xticks(range(len(BATCHES)), [str(running) for running in BATCHES])
    axes.legend(frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(0, 1))
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
