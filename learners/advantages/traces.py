"""Advantages that differ along an answer, from values that were measured at cuts through it or rewards of its tokens.

Pure: a `Trace` says where an answer was cut and what going on from each cut was worth (`rollout.probes`), and what its
tokens were given beside the whole answer's reward (terms that reward parts of a text); how either comes about is the
caller's affair.

- `spo_chain`: from continuations to the end. A segment's advantage is what it adds to their mean reward.
- `brpo`: from answers at the cuts. What counts is the mean reward over thinking budgets.
- `capo_credit`: from rewards of tokens, such as a penalty for a wrong step.

Estimators return [R] advantages for each trace, R its length.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from learners.needs import needs
from learners.registry import Registry


@dataclass(frozen=True, slots=True)
class Trace:
    """An answer with values at cuts through it, or rewards of its tokens.

    Attributes:
        length: tokens of the answer, at least 1.
        reward: of the whole answer.
        cuts: numbers of tokens before each cut, ascending, each above 0 and below `length`.
        values: of each cut.
        token_rewards: of each token, beside `reward`; empty where no token has one.
    """

    length: int
    reward: float
    cuts: tuple[int, ...] = ()
    values: tuple[float, ...] = ()
    token_rewards: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if any(before >= after for before, after in itertools.pairwise((0, *self.cuts, self.length))):
            raise ValueError(f"cuts {self.cuts} must ascend within an answer of {self.length} tokens")
        if len(self.values) != len(self.cuts):
            raise ValueError(f"{len(self.values)} values for {len(self.cuts)} cuts")
        if len(self.token_rewards) not in (0, self.length):
            raise ValueError(f"{len(self.token_rewards)} rewards for {self.length} tokens")

    @property
    def along(self) -> tuple[float, ...]:
        """[length] the whole answer's reward and each token's own together."""
        return tuple(self.reward + own for own in self.token_rewards or (0.0,) * self.length)


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
@needs("probes")
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
@needs("probes")
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


@TRACE_ADVANTAGES.register("capo_credit")
@needs("token_rewards")
def capo_credit(
    group: TracedGroup, *, weigh: Literal["answers", "tokens"] = "answers", eps: float = 1e-6
) -> list[tuple[float, ...]]:
    """A_t = (r_t - mean(r)) / (std(r) + eps) over all tokens of the group, r_t the answer's reward and the token's own
    together: CAPO's credit assignment (arXiv 2508.02298), whose r_t is W_outcome 1[right] - W_process 1[t in a wrong
    step]. The weights W are those of the reward terms.

    Where no token has a reward of its own it is `grpo`.

    Args:
        weigh: in mean and deviation (of the population) every answer counts the same, each of its tokens an equal share
            of it; or every token does, so that long answers make the baseline.
    """
    rewards = [trace.along for trace in group.traces]
    shares = [1 / len(along) if weigh == "answers" else 1.0 for along in rewards]
    total = math.fsum(share * len(along) for share, along in zip(shares, rewards, strict=True))
    mean = _mean(rewards, shares, total)
    spread = math.sqrt(_mean([[(r - mean) ** 2 for r in along] for along in rewards], shares, total))
    return [tuple((r - mean) / (spread + eps) for r in along) for along in rewards]


def _mean(rows: Sequence[Sequence[float]], shares: Sequence[float], total: float) -> float:
    """Of all entries, those of each row weighed by its share."""
    return math.fsum(share * math.fsum(row) for share, row in zip(shares, rows, strict=True)) / total


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
