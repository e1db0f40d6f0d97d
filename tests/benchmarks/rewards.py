"""What scoring costs: verifications per second, and what the pool adds to calling the verifier's library directly.

    make bench NAME=rewards          or   python -m tests.benchmarks.rewards [--answers 2000]

For each verifier the same answers are scored by one child process and by calling the term in this process, one by one
and without a limit, which is how trainers with rewards as plain functions do it (TRL). Both take turns, several times,
and the medians are compared. Reported: verifications per second of both, the pool's overhead at batch (one child, so
that it is not hidden by a second core), the latency of single answers through the pool, and, for the mathematics, what
becomes of the pool's throughput when one answer in a hundred never comes to an end: there the calls in process stand
still for good.
"""

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import reasoning_gym

from rewards.child_pool import ChildPool
from rewards.compose import Reward
from rewards.response import Json, Response
from rewards.settings import RewardSettings
from tests.benchmarks.report import finish

CORPUS = Path(__file__).parents[1] / "rewards" / "corpus" / "math.jsonl"
ROUNDS = 5
SINGLES = 200
HANGING = r"\boxed{10^{10^{10}}}"
EVERY = 100
"""One answer in so many hangs."""
DEADLINE_S = 1.0


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one verifier; rates per second, latencies in milliseconds."""

    verifier: str
    answers: int
    direct_per_s: float
    pool_per_s: float
    overhead: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Hangs:
    """Throughput with and without answers that hang."""

    verifier: str
    deadline_s: float
    workers: int
    clean_per_s: float
    hanging_per_s: float
    kept: float


def latex(count: int) -> list[Response]:
    """Answers from the corpus, those left out that may not come to an end."""
    rows = [json.loads(line) for line in CORPUS.read_text(encoding="utf-8").splitlines()]
    kept = [row for row in rows if row["kind"] != "huge"]
    return [_numbered(n, kept[n % len(kept)]["response"], kept[n % len(kept)]["answer"]) for n in range(count)]


def plain(count: int) -> list[Response]:
    """Numbers behind a chain of thought, as grade-school problems end."""
    thought = "First, 48 / 2 = 24 are sold in May. " * 20
    return [_numbered(n, f"{thought}\n#### {n % 7}", str(n % 5)) for n in range(count)]


def puzzles(count: int) -> list[Response]:
    """A mixture of reasoning-gym's tasks, half of the answers right."""
    tasks = ("chain_sum", "countdown", "mini_sudoku", "knights_knaves", "base_conversion")
    made = {task: reasoning_gym.create_dataset(task, seed=1, size=50) for task in tasks}
    responses = []
    for number in range(count):
        task = tasks[number % len(tasks)]
        entry: dict[str, Json] = made[task][number % 50]
        answer = entry["answer"] if number % 2 else "no idea"
        responses.append(Response(str(number), "q", f"#### {answer}", None, {"task": task, "entry": entry}))
    return responses


def shaped(count: int) -> list[Response]:
    """Long texts of the asked form, which cost nearly nothing to check."""
    return [_numbered(n, f"<think>{'so ' * 500}</think>\n<answer>{n}</answer>", "1") for n in range(count)]


VERIFIERS: dict[str, tuple[object, Callable[[int], list[Response]]]] = {
    "math, LaTeX": ("math", latex),
    "math, plain numbers": ("math", plain),
    "reasoning_gym": ("reasoning_gym", puzzles),
    "tags and repetition": ({"terms": ["tags", "repetition"]}, shaped),
}


def _numbered(number: int, text: str, answer: str) -> Response:
    return Response(str(number), "q", text, answer)


def cost_of(name: str, answers: int) -> Cost:
    """The pool against the library."""
    reward, make = VERIFIERS[name]
    settings = RewardSettings.model_validate(reward)
    responses = make(answers)
    direct = Reward(settings)
    direct.warm_up()
    seconds: dict[str, list[float]] = {"direct": [], "pool": []}
    with ChildPool(settings) as pool:
        pool.warm_up()
        pool.score(responses[: answers // 10])
        for _ in range(ROUNDS):
            seconds["direct"].append(_timed(lambda: [direct.score(response) for response in responses]))
            seconds["pool"].append(_timed(lambda: pool.score(responses)))
        singles = sorted(1000 * _timed(lambda r=response: pool.score([r])) for response in responses[:SINGLES])
    alone, pooled = (statistics.median(seconds[way]) for way in ("direct", "pool"))
    return Cost(
        name,
        answers,
        round(answers / alone, 1),
        round(answers / pooled, 1),
        round(pooled / alone - 1, 3),
        round(statistics.median(singles), 3),
        round(singles[int(0.99 * (len(singles) - 1))], 3),
    )


def hangs(answers: int, workers: int, seed: int) -> Hangs:
    """The mathematics with one answer in `EVERY` that never ends."""
    responses = latex(answers)
    places = random.Random(seed).sample(range(answers), answers // EVERY)
    spoilt = [_numbered(n, HANGING, "72") if n in set(places) else r for n, r in enumerate(responses)]
    settings = RewardSettings.model_validate({"terms": ["math"], "workers": workers, "deadline_s": DEADLINE_S})
    with ChildPool(settings) as pool:
        pool.warm_up()
        pool.score(responses[: answers // 10])
        clean = statistics.median(_timed(lambda: pool.score(responses)) for _ in range(3))
        started = time.perf_counter()
        scores = pool.score(spoilt)
        hanging = time.perf_counter() - started
    assert sum(score.failure is not None for score in scores) >= len(places) // 2, "the answers did not hang"
    rates = answers / clean, answers / hanging
    return Hangs("math, LaTeX", DEADLINE_S, workers, *(round(rate, 1) for rate in rates), round(rates[1] / rates[0], 3))


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=2000, help="of each verifier; 100 at least")
    parser.add_argument("--workers", type=int, default=6, help="children where answers hang, more than cores")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    costs = []
    for name in VERIFIERS:
        costs.append(cost_of(name, chosen.answers))
        cost = costs[-1]
        print(
            f"{name:<20} direct {cost.direct_per_s:>9,.0f}/s  pool {cost.pool_per_s:>9,.0f}/s  "
            f"overhead {cost.overhead:+7.1%}  p50 {cost.p50_ms:.2f} ms  p99 {cost.p99_ms:.2f} ms",
            flush=True,
        )
    stalled = hangs(chosen.answers, chosen.workers, chosen.seed)
    print(
        f"one answer in {EVERY} hangs: {stalled.hanging_per_s:,.0f}/s of {stalled.clean_per_s:,.0f}/s "
        f"({stalled.kept:.0%}) at a deadline of {DEADLINE_S:g} s"
    )
    finish(
        "rewards",
        ratio=costs[0].overhead,
        unit="the pool's overhead over calling math-verify directly, at batch, one child",
        rows=[*map(asdict, costs), asdict(stalled)],
        seed=chosen.seed,
    )


if __name__ == "__main__":
    main()
