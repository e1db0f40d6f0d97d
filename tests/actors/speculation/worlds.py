"""Simulated engines for the governor's tests: a step costs and emits what a published or measured table says.

What a world knows and the governor must find out: how long a step takes, how many drafts are kept, how noisy both are.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from actors.speculation.arms import Arm
from actors.speculation.governor import Governor
from actors.speculation.step_record import StepRecord

TLT_SPEED_UP = {
    16: (3.22, 3.08, 3.01, 2.73, 2.67, 2.48),
    32: (3.46, 3.28, 3.09, 2.63, 2.52, 2.23),
    48: (3.56, 3.39, 3.13, 2.51, 2.24, 1.90),
    64: (3.62, 3.38, 2.98, 2.27, 1.91, 1.70),
}
"""Speed-up by tokens to verify, at batch sizes 1, 2, 4, 8, 16, 32 (TLT, arXiv 2511.16665, table 4)."""
TLT_ACCEPTED = {16: 4.2, 32: 5.0, 48: 5.4, 64: 5.7}
"""Drafts kept per step. Assumed: the table gives speed alone, and its product with the step's time is what it is."""

CPU_MS = {
    0: (5.3, 5.6, 6.0, 7.8),
    1: (7.2, 8.2, 8.2, 12.8),
    3: (7.4, 8.8, 10.1, 16.0),
    5: (9.7, 11.8, 11.3, 19.5),
}
"""Milliseconds of a step by draft length (EAGLE-3), at batch sizes 1, 2, 4, 16: measured on a 2-core CPU."""
CPU_ATTACHED_MS = (7.0, 7.5, 8.2, 10.5)
"""The same without drafts, but with the drafter's pass. Measured at 1 and 16, the others on a line between."""


MEAN_CONTEXT = 1000
"""Tokens of a request on average: what a drafter can be behind with, since answers end and others begin."""


@dataclass
class World:
    """Args:
    seconds: of a step by batch size, draft length and whether the drafter is attached.
    accepted: expected kept drafts of a request by draft length, after so many seconds.
    noise: standard deviation of the logarithm of a step's time.
    tail: probability that a step takes ten times as long.
    catch_up_s: per missed token.
    distort: factor on the time of the n-th step of an arm.
    """

    seconds: Callable[[int, int, bool], float]
    accepted: Callable[[int, float], float]
    noise: float = 0.05
    tail: float = 0.0
    catch_up_s: float = 0.0
    distort: Callable[[int, int], float] = field(default=lambda _k, _n: 1.0)

    def rate(self, running: int, k: int, now: float, attached: bool) -> float:
        """Expected tokens/s."""
        mean = math.exp(self.noise**2 / 2) * (1 + 9 * self.tail)
        return running * (1 + (self.accepted(k, now) if k else 0.0)) / (mean * self.seconds(running, k, attached))


@dataclass
class Outcome:
    """Of a simulated run: totals, and the seconds spent with each draft length.

    `plain_s` is how long the same tokens would have taken without drafts (and without the drafter, if it may be left
    out), at the same batch sizes; `best_s` with the best arm at each of them.
    """

    seconds: float
    tokens: float
    by_k: dict[int, float]
    detached_s: float
    plain_s: float
    best_s: float

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds


def tlt_world(noise: float = 0.05, tail: float = 0.0) -> World:
    def seconds(running: int, k: int, attached: bool) -> float:
        plain = 0.02 * (1 + running / 544)
        return plain * (1 + TLT_ACCEPTED[k]) / between(TLT_SPEED_UP[k], (1, 2, 4, 8, 16, 32), running) if k else plain

    return World(seconds, lambda k, _: TLT_ACCEPTED[k], noise, tail)


def cpu_world(acceptance: Callable[[float], float], noise: float = 0.05, tail: float = 0.0) -> World:
    """Args:
    acceptance: share of the drafts kept at each position after so many seconds.
    """

    def seconds(running: int, k: int, attached: bool) -> float:
        row = CPU_ATTACHED_MS if attached and not k else CPU_MS[k]
        return between(row, (1, 2, 4, 16), running) / 1000

    def accepted(k: int, now: float) -> float:
        share = acceptance(now)
        return sum(share**i for i in range(1, k + 1))

    # The drafter reads tokens in bulk: the slope of its pass over the batch.
    return World(seconds, accepted, noise, tail, catch_up_s=(10.5 - 7.8 - 7.0 + 5.3) / 15 / 1000)


def between(row: Sequence[float], sizes: Sequence[int], running: int) -> float:
    """On a line between the two nearest measured batch sizes; beyond the last one, as the last step of the table."""
    for (left, low), (right, high) in zip(
        zip(sizes, row, strict=True), zip(sizes[1:], row[1:], strict=True), strict=False
    ):
        if running <= right or right == sizes[-1]:
            return low + (high - low) * (running - left) / (right - left)
    raise AssertionError("there is a last pair")


def play(
    governor: Governor,
    world: World,
    running: Callable[[int], int],
    steps: int,
    seed: int,
    *,
    lengths: Sequence[int] = (),
    detachable: bool = False,
) -> Outcome:
    """Let the governor drive the world. After a change to a drafting arm the first step has nothing to verify yet.

    Args:
        running: batch size of the n-th step.
        lengths: draft lengths among which `best_s` takes the best.
    """
    source = random.Random(seed)
    now, tokens, detached_s, behind = 0.0, 0.0, 0.0, 0
    by_k: dict[int, float] = {}
    counts: dict[int, int] = {}
    before = Arm(0)
    plain_s = best_s = 0.0
    for step in range(steps):
        size = running(step)
        arm = governor.choose(size, now)
        attached = governor.attached
        assert attached or arm.k == 0, "nothing is drafted without the drafter"
        counts[arm.k] = counts.get(arm.k, 0) + 1
        seconds = world.seconds(size, arm.k, attached) * math.exp(source.gauss(0, world.noise))
        seconds *= world.distort(arm.k, counts[arm.k]) * (10 if source.random() < world.tail else 1)
        catch_up = behind * world.catch_up_s if attached else 0.0
        fresh = arm.k and before.k == 0
        accepted = 0 if fresh or not arm.k else draw(world.accepted(arm.k, now), arm.k, size, source)
        emitted = size + accepted
        behind = 0 if attached else min(behind + emitted, MEAN_CONTEXT * size)
        governor.observe(
            StepRecord(
                running=size,
                k=arm.k,
                drafted=0 if fresh else arm.k * size,
                accepted=accepted,
                emitted=emitted,
                seconds=seconds + catch_up,
                attached=attached,
                catch_up_s=catch_up,
                behind=behind,
            )
        )
        before = arm
        now += seconds + catch_up
        tokens += emitted
        by_k[arm.k] = by_k.get(arm.k, 0.0) + seconds + catch_up
        detached_s += 0.0 if attached else seconds
        plain = world.rate(size, 0, now, not detachable)
        plain_s += emitted / plain
        best_s += emitted / max([plain, *(world.rate(size, k, now, True) for k in lengths)])
    return Outcome(now, tokens, by_k, detached_s, plain_s, best_s)


def draw(mean: float, k: int, size: int, source: random.Random) -> int:
    """Kept drafts of all requests: binomial for few, its normal limit for many."""
    share = mean / k
    trials = k * size
    if trials <= 64:
        return sum(source.random() < share for _ in range(trials))
    return min(trials, max(0, round(source.gauss(trials * share, math.sqrt(trials * share * (1 - share))))))
