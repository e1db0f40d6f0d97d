"""What scoring costs: verifications per second, and what the pool adds to calling the verifier's library directly.

    make bench NAME=rewards          or   python -m tests.benchmarks.rewards [--answers 2000]

For each verifier the same answers are scored by one child process, by calling the term in this process, and by calling
the library that it stands on (math-verify's `parse` and `verify` of the whole answer, reasoning-gym's `score_answer`),
one by one and without a limit, which is how trainers with rewards as plain functions do it (TRL, verl). The ways take
turns, several times, and the medians are compared. Reported: verifications per second of each, the pool's overhead at
batch over both (one child, so that it is not hidden by a second core), the latency of single answers through the pool,
and, for the mathematics, what becomes of the pool when one answer in a hundred never comes to an end, because it waits
for something, or because it computes: there the calls in process stand still for good.
"""

import argparse
import functools
import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import reasoning_gym
from math_verify import parse, verify

from rewards.child_pool import ChildPool
from rewards.compose import Reward
from rewards.response import Json, Response
from rewards.settings import RewardSettings
from tests.benchmarks.report import finish

CORPUS = Path(__file__).parents[1] / "rewards" / "corpus" / "math.jsonl"
ROUNDS = 5
SINGLES = 200
EVERY = 100
"""One answer in so many hangs."""
DEADLINE_S = 1.0
HANG_TURNS = 3


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one verifier; rates per second, latencies in milliseconds.

    Attributes:
        library_per_s: None where the verifier stands on no library.
        overhead: the pool's time over the term's in this process, less one; `over_library` over the library's.
    """

    verifier: str
    answers: int
    library_per_s: float | None
    direct_per_s: float
    pool_per_s: float
    overhead: float
    over_library: float | None
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Hangs:
    """Throughput with and without answers that hang.

    Attributes:
        kept: the one over the other; the median of the turns.
    """

    kind: str
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


def by_math_verify(response: Response) -> None:
    """As TRL's and verl's rewards of mathematics do it: the answer is looked for in the whole text."""
    assert response.reference is not None
    verify(
        parse(response.reference, parsing_timeout=None),
        parse(response.text, parsing_timeout=None),
        timeout_seconds=None,
    )


def by_reasoning_gym(response: Response) -> None:
    entry = response.metadata["entry"]
    library_scorer(str(response.metadata["task"]))(response.text.removeprefix("#### "), entry)


@functools.cache
def library_scorer(task: str) -> Callable[..., float]:
    return reasoning_gym.get_score_answer_fn(task)


@dataclass(frozen=True, slots=True)
class Subject:
    """A verifier, answers for it, and the library's own call."""

    reward: object
    make: Callable[[int], list[Response]]
    library: Callable[[Response], None] | None = None


VERIFIERS = {
    "math, LaTeX": Subject("math", latex, by_math_verify),
    "math, plain numbers": Subject("math", plain, by_math_verify),
    "reasoning_gym": Subject("reasoning_gym", puzzles, by_reasoning_gym),
    "tags and repetition": Subject({"terms": ["tags", "repetition"]}, shaped),
}


def _numbered(number: int, text: str, answer: str) -> Response:
    return Response(str(number), "q", text, answer)


def cost_of(name: str, answers: int) -> Cost:
    """The pool against the library."""
    subject = VERIFIERS[name]
    settings = RewardSettings.model_validate(subject.reward)
    responses = subject.make(answers)
    direct = Reward(settings)
    direct.warm_up()
    library = subject.library
    seconds: dict[str, list[float]] = {"library": [], "direct": [], "pool": []}
    with ChildPool(settings) as pool:
        pool.warm_up()
        pool.score(responses[: answers // 10])
        for _ in range(ROUNDS):
            if library is not None:
                seconds["library"].append(_timed(lambda: [library(response) for response in responses]))
            seconds["direct"].append(_timed(lambda: [direct.score(response) for response in responses]))
            seconds["pool"].append(_timed(lambda: pool.score(responses)))
        singles = sorted(1000 * _timed(lambda r=response: pool.score([r])) for response in responses[:SINGLES])
    alone, pooled = (statistics.median(seconds[way]) for way in ("direct", "pool"))
    called = statistics.median(seconds["library"]) if library is not None else None
    return Cost(
        name,
        answers,
        None if called is None else round(answers / called, 1),
        round(answers / alone, 1),
        round(answers / pooled, 1),
        round(pooled / alone - 1, 3),
        None if called is None else round(pooled / called - 1, 3),
        round(statistics.median(singles), 3),
        round(singles[int(0.99 * (len(singles) - 1))], 3),
    )


HANGS: dict[str, tuple[list[object], Response]] = {
    "waits": (
        ["math", {"name": "tests.rewards.misbehaving:stuck", "weight": 0}],
        Response("0", "stuck", r"\boxed{72}", "72"),
    ),
    "computes": (["math"], Response("0", "q", r"\boxed{10^{10^{10}}}", "72")),
}
"""Terms, and an answer that hangs there."""


def hangs(kind: str, answers: int, workers: int, seed: int) -> Hangs:
    """The mathematics with one answer in `EVERY` that never ends; clean and spoilt answers take turns."""
    terms, spoiler = HANGS[kind]
    responses = latex(answers)
    places = set(random.Random(seed).sample(range(answers), answers // EVERY))
    spoilt = [spoiler if n in places else response for n, response in enumerate(responses)]
    settings = RewardSettings.model_validate({"terms": terms, "workers": workers, "deadline_s": DEADLINE_S})
    clean, hanging = [], []
    with ChildPool(settings) as pool:
        pool.warm_up()
        pool.score(responses[: answers // 10])
        for _ in range(HANG_TURNS):
            clean.append(_timed(lambda: pool.score(responses)))
            started = time.perf_counter()
            scores = pool.score(spoilt)
            hanging.append(time.perf_counter() - started)
            assert sum(score.failure is not None for score in scores) >= len(places) // 2, "the answers did not hang"
    kept = statistics.median(ours / theirs for ours, theirs in zip(clean, hanging, strict=True))
    rates = (answers / statistics.median(seconds) for seconds in (clean, hanging))
    return Hangs(kind, DEADLINE_S, workers, *(round(rate, 1) for rate in rates), round(kept, 3))


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
        library = "none" if cost.library_per_s is None else f"{cost.library_per_s:,.0f}/s ({cost.over_library:+.1%})"
        print(
            f"{name:<20} pool {cost.pool_per_s:>7,.0f}/s  term in process {cost.direct_per_s:>7,.0f}/s "
            f"({cost.overhead:+.1%})  library {library}  p50 {cost.p50_ms:.2f} ms  p99 {cost.p99_ms:.2f} ms",
            flush=True,
        )
    stalled = [hangs(kind, chosen.answers, chosen.workers, chosen.seed) for kind in HANGS]
    for stall in stalled:
        print(
            f"one answer in {EVERY} hangs, it {stall.kind}: {stall.hanging_per_s:,.0f}/s of {stall.clean_per_s:,.0f}/s "
            f"({stall.kept:.0%}) at a deadline of {DEADLINE_S:g} s"
        )
    finish(
        "rewards",
        ratio=costs[0].over_library,
        unit="the pool's overhead over calling math-verify directly on LaTeX, at batch, one child",
        rows=[*map(asdict, costs), *map(asdict, stalled)],
        seed=chosen.seed,
    )


if __name__ == "__main__":
    main()
