"""Tokens per second with and without drafting, for 1 to 32 running answers, on a trained 12-layer target.

    make bench NAME=speculation         or   python -m tests.benchmarks.speculation [--repeats 3]

All engines (vLLM, float32 or as `--dtype` says) are started first, one for each way of drafting, and take turns: for
each number of running answers, each engine samples the same requests, at temperature 1, before the next number. An
engine that waits for its turn computes nothing. The ratio of a row is against the engine without a drafter in the same
turn. Two requirements are judged at the end: the governor against the best fixed draft length, and against no drafter,
with the trained drafter and with one that never learned.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Literal

import torch

from actors.engine import EngineSettings, GenerationRequest, Sampling
from actors.speculation.settings import SpeculationSettings
from actors.vllm_engine import VllmEngine
from tests.benchmarks.deep_target import deep_target, end_of_text, questions, train_drafter, windows_of
from tests.benchmarks.report import finish

BATCHES = (1, 2, 4, 8, 16, 32)
LENGTHS = (0, 1, 2, 4)
MAX_TOKENS = 160
PROMPT_TOKENS = 96
REQUESTS = 4
"""Answers per place in a measurement: enough that filling and emptying the batch weigh little."""
LEAST_REQUESTS = 12
STUDY_ANSWERS = 1500
NONE, GOVERNED, UNTRAINED = "no drafter", "governor", "governor, untrained drafter"
Dtype = Literal["bfloat16", "float32"]


@dataclass(frozen=True, slots=True)
class Measured:
    """One turn of one engine. `ratio` is against the engine without a drafter in the same turn."""

    way: str
    running: int
    repeat: int
    tokens_per_s: float
    ratio: float
    acceptance_length: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--target-steps", type=int, default=300, help="supervised steps of the target")
    parser.add_argument("--updates", type=int, default=600, help="micro-steps of the drafter's training")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    arguments = parser.parse_args()
    asyncio.run(measure(arguments.repeats, arguments.target_steps, arguments.updates, arguments.dtype))


async def measure(repeats: int, target_steps: int, updates: int, dtype: Dtype) -> None:
    target = deep_target(target_steps)
    with tempfile.TemporaryDirectory() as scratch:
        plain = await started(target, None, dtype)
        ids = questions(target, STUDY_ANSWERS)
        answers = await sample(plain, ids, running=64, name="study", end=end_of_text(target))
        windows = windows_of(target, [prompt + answer for prompt, answer in zip(ids, answers, strict=True)], [])
        drafter = train_drafter("eagle", target, windows, Path(scratch), updates=updates, dtype=getattr(torch, dtype))
        print(
            f"drafter: {drafter.score.greedy.accepted:.2f} of 4 drafted tokens expected to stay on held-out windows "
            f"({', '.join(f'{share:.0%}' for share in drafter.score.greedy.by_position)} by position)"
        )
        engines = {NONE: plain}
        for way, settings in ways(str(drafter.trained), str(drafter.untrained)).items():
            engines[way] = await started(target, settings, dtype)
        try:
            rows = await turns(engines, target, repeats)
        finally:
            for engine in engines.values():
                await engine.shutdown()
    conclude(rows, list(engines))


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


async def started(target: Path, speculation: SpeculationSettings | None, dtype: Dtype) -> VllmEngine:
    engine = VllmEngine(
        EngineSettings(
            str(target),
            dtype,
            PROMPT_TOKENS + MAX_TOKENS,
            max_running=64,
            threads=2,
            kv_cache_gib=0.25,
            speculation=speculation,
        )
    )
    await engine.start()
    return engine


async def sample(
    engine: VllmEngine, prompts: Sequence[tuple[int, ...]], *, running: int, name: str, end: int
) -> list[tuple[int, ...]]:
    """An answer to each prompt, `running` at a time, up to the token `end`."""
    places = asyncio.Semaphore(running)

    async def one(index: int, prompt: tuple[int, ...]) -> tuple[int, ...]:
        async with places:
            sampling = Sampling(MAX_TOKENS, seed=index, stop_token_ids=(end,))
            return (await engine.generate(GenerationRequest(f"{name}/{index}", prompt, sampling))).token_ids

    return list(await asyncio.gather(*(one(index, prompt) for index, prompt in enumerate(prompts))))


async def turns(engines: Mapping[str, VllmEngine], target: Path, repeats: int) -> list[Measured]:
    """Every engine at every number of running answers, in turn; what the governors learn on the way they keep."""
    rows: list[Measured] = []
    end = end_of_text(target)
    for repeat in range(-1, repeats):  # the first round warms up, and is the governors' time to learn
        for running in BATCHES:
            prompts = questions(target, max(LEAST_REQUESTS, REQUESTS * running), seed=1 + repeat)
            speeds: dict[str, tuple[float, float]] = {}
            for way, engine in engines.items():
                began = time.perf_counter()
                answers = await sample(engine, prompts, running=running, name=f"{repeat}/{running}", end=end)
                speed = sum(map(len, answers)) / (time.perf_counter() - began)
                stats = await engine.speculation_stats()
                passes = sum(record.running for record in stats.steps)
                speeds[way] = speed, sum(record.emitted for record in stats.steps) / passes if passes else 1.0
            if repeat < 0:
                continue
            for way, (speed, length) in speeds.items():
                ratio = speed / speeds[NONE][0]
                rows.append(Measured(way, running, repeat, round(speed, 1), round(ratio, 3), round(length, 2)))
                print(
                    f"{running:>3} running  {way:<28} {speed:8.0f} tokens/s  {ratio:5.2f}x  {length:.2f} tokens a pass"
                )
    return rows


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


if __name__ == "__main__":
    main()
