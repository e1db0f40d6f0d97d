"""Advantages that differ along an answer, from values that were measured at cuts through it.

Pure: a `Trace` says where an answer was cut and what going on from each cut was worth; how that is measured is the
caller's affair (`rollout.probes`). The two differ in what is asked for at a cut:

- `spo_chain`: continuations to the end. A segment's advantage is what it adds to their mean reward.
- `brpo`: an answer right there. What counts is the mean reward over thinking budgets.

Estimators return [R] advantages for each trace, R its length.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from learners.registry import Registry


@dataclass(frozen=True, slots=True)
class Trace:
    """An answer with values at cuts through it.

    Attributes:
        length: tokens of the answer, at least 1.
        reward: of the whole answer.
        cuts: numbers of tokens before each cut, ascending, each above 0 and below `length`.
        values: of each cut.
    """

    length: int
    reward: float
    cuts: tuple[int, ...] = ()
    values: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if any(before >= after for before, after in itertools.pairwise((0, *self.cuts, self.length))):
            raise ValueError(f"cuts {self.cuts} must ascend within an answer of {self.length} tokens")
        if len(self.values) != len(self.cuts):
            raise ValueError(f"{len(self.values)} values for {len(self.cuts)} cuts")


@dataclass(frozen=True, slots=True)
class TracedGroup:
    """The answers to one prompt, at least one.

    Attributes:
        budgets: where every longer trace is cut, ascending, and behind them the most tokens that an answer may have;
            empty where each trace is cut at places of its own.
    """

    traces: tuple[Trace, ...]
    budgets: tuple[int, ...] = ()


TraceEstimator = Callable[..., list[tuple[float, ...]]]
"""From a `TracedGroup`, and options by keyword, to the advantages of each trace, per token."""
TRACE_ADVANTAGES: Registry[TraceEstimator] = Registry("algorithm.advantage")


@TRACE_ADVANTAGES.register("spo_chain")
def spo_chain(group: TracedGroup) -> list[tuple[float, ...]]:
    """A of a segment = V(its end) - V(its start): segment policy optimization, SPO-chain (arXiv 2505.23564).

    V(a cut) is the mean reward of continuations from there (`rollout.probes`), V(prompt) the group's mean reward, and V
    behind the last token the answer's own. The segments of an answer add up to r - V(prompt); without a cut that is the
    advantage of every token, as in `dr_grpo`. The paper's loss leaves out likely tokens: `algorithm.masks`,
    `unlikely_tokens`.
    """
    start = fmean(trace.reward for trace in group.traces)
    advantages = []
    for trace in group.traces:
        steps = [after - before for before, after in itertools.pairwise((start, *trace.values, trace.reward))]
        advantages.append(_along(trace.length, trace.cuts, steps))
    return advantages


@TRACE_ADVANTAGES.register("brpo")
def brpo(
    group: TracedGroup, *, prior: Literal["uniform", "linear", "base"] = "uniform", decay: float = 1.0
) -> list[tuple[float, ...]]:
    """A_t = sum over budgets b_j >= t of P_j r_j, less a baseline: budget-relative policy optimization, BRPO
    (AnytimeReasoner, arXiv 2505.13438).

    r_j is the reward of answering at budget b_j (`rollout.probes`, with an end-of-thinking text). Behind budget j - 1
    and up to j of m the baseline is ((j - 1) V1 + (m - j + 1) V2) / m: V1 the mean reward at this trace's own earlier
    budgets, times the chance P_j + ... + P_m that is left; V2 the mean return of the group there. Of its own trace it
    sees nothing behind t but for the share in V2. With one budget it is `dr_grpo`. The answers that were asked for at
    the cuts are not trained on.

    Args:
        prior: P_j: alike, in proportion to b_j, or all on the last budget.
        decay: an earlier budget counts so much less in V1 with each budget in between; in (0, 1].
    """
    if not 0 < decay <= 1:
        raise ValueError(f"decay={decay} must be in (0, 1]")
    budgets, count = group.budgets, len(group.budgets)
    chances = _chances(budgets, prior)
    left = [sum(chances[j:]) for j in range(count)]
    rewards = [[_at_budget(trace, budget) for budget in budgets] for trace in group.traces]
    returns = [[sum(chances[k] * row[k] for k in range(j, count)) for j in range(count)] for row in rewards]
    advantages = []
    for trace, row, own in zip(group.traces, rewards, returns, strict=True):
        steps = []
        for j in range(count):
            together = fmean(other[j] for other in returns)
            steps.append(own[j] - (j * _faded_mean(row[:j], decay) * left[j] + (count - j) * together) / count)
        ends = [budget for budget in budgets if budget < trace.length]
        advantages.append(_along(trace.length, ends, steps))
    return advantages


def _chances(budgets: Sequence[int], prior: Literal["uniform", "linear", "base"]) -> list[float]:
    """P_j of each budget."""
    if prior == "base":
        return [0.0] * (len(budgets) - 1) + [1.0]
    weights = budgets if prior == "linear" else [1] * len(budgets)
    return [weight / sum(weights) for weight in weights]


def _faded_mean(values: Sequence[float], decay: float) -> float:
    """Mean that weighs the last value most, 0 of none."""
    weights = [decay ** (len(values) - 1 - place) for place in range(len(values))]
    return sum(w * value for w, value in zip(weights, values, strict=True)) / sum(weights) if values else 0.0


def _at_budget(trace: Trace, budget: int) -> float:
    """The reward that was had at a budget: a shorter trace has its own there."""
    if budget >= trace.length:
        return trace.reward
    if budget not in trace.cuts:
        raise ValueError(f"a trace of {trace.length} tokens was not cut at its budget of {budget}")
    return trace.values[trace.cuts.index(budget)]


def _along(length: int, cuts: Sequence[int], steps: Sequence[float]) -> tuple[float, ...]:
    """[length] the step of the segment that each token is in; steps beyond the last segment are left out."""
    segments = itertools.pairwise((0, *cuts, length))
    return tuple(step for (begin, end), step in zip(segments, steps, strict=False) for _ in range(begin, end))
