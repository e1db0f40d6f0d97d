"""What becomes of a scored group before it is trained, chosen by name: `algorithm.group_filters`, in order.

Pure functions from what is known of a group's answers to what is trained of it: the same, other rewards, answers that
only count in the baseline, or nothing at all (None). A group that is left out makes room for another prompt, so that
batches stay full (`Dispatcher`); `algorithm.drop_zero_variance` acts behind the last of them.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, pstdev

from learners.options import with_options
from learners.registry import Registry
from learners.settings import AlgorithmSettings
from orchestrator.policies.groups import ScoredGroup


@dataclass(frozen=True, slots=True)
class GroupOutcome:
    """The sampled answers of one group, at least one, in sample order.

    Attributes:
        rewards: of each answer; lengths: tokens of each; truncated: whether each ran out of tokens.
        masked: numbers of those that count in the baseline and take no loss.
        usual_spread: moving average of the groups' standard deviations of rewards up to the last step, filtered groups
            included; None in the first step.
    """

    rewards: tuple[float, ...]
    lengths: tuple[int, ...]
    truncated: tuple[bool, ...]
    masked: frozenset[int] = frozenset()
    usual_spread: float | None = None


GroupFilter = Callable[..., GroupOutcome | None]
"""From a `GroupOutcome`, and options by keyword, to what is trained of it; None leaves the group out."""
GROUP_FILTERS: Registry[GroupFilter] = Registry("algorithm.group_filters")


@GROUP_FILTERS.register("solve_rate")
def solve_rate(group: GroupOutcome, *, low: float = 0.0, high: float = 1.0) -> GroupOutcome | None:
    """Left out unless low < mean(r) < high: dynamic sampling (DAPO, arXiv 2503.14476, section 3.2), which refills the
    batch with other prompts.

    With rewards of 0 and 1 the defaults leave out what `algorithm.drop_zero_variance` does; a narrower band keeps
    prompts of middling difficulty.

    Args:
        low, high: of the group's mean reward, themselves outside.

    Raises:
        ValueError: low is not below high.
    """
    if low >= high:
        raise ValueError(f"low={low} must be below high={high}")
    return group if low < fmean(group.rewards) < high else None


@GROUP_FILTERS.register("truncated")
def truncated(group: GroupOutcome) -> GroupOutcome | None:
    """Answers that ran out of tokens count in the baseline and take no loss: overlong filtering (DAPO, arXiv
    2503.14476, section 3.4). A group of none but such answers is left out.

    What an answer would have come to is not known, so its reward teaches noise.
    """
    masked = group.masked | {number for number, cut in enumerate(group.truncated) if cut}
    return replace(group, masked=masked) if len(masked) < len(group.rewards) else None


@GROUP_FILTERS.register("length_outliers")
def length_outliers(
    group: GroupOutcome, *, deviations: float = 2.0, min_gap: int = 0, reward: float = 0.0, correct_at: float = 1.0
) -> GroupOutcome | None:
    """Where all answers are right, those longer than mean + deviations x std of the lengths get `reward` instead of
    their own: dynamic outlier truncation (DOT, arXiv 2601.03969).

    Only the tail of prompts that are solved anyhow is pushed down, so that thinking long stays free where it is needed.
    Among G answers none lies sqrt(G - 1) deviations or more beyond the mean. The paper's constants are not verified.

    Args:
        deviations: population standard deviations above the mean, above 0.
        min_gap: tokens beyond the mean that it takes at least.
        reward: of an outlier.
        correct_at: an answer is right from this reward on.

    Raises:
        ValueError: deviations are not above 0, min_gap is negative, or an outlier would be no worse off.
    """
    if deviations <= 0 or min_gap < 0 or reward >= correct_at:
        raise ValueError(
            f"deviations={deviations} must be above 0, min_gap={min_gap} at least 0, and reward={reward} below "
            f"correct_at={correct_at}"
        )
    if min(group.rewards) < correct_at:
        return group
    mean = fmean(group.lengths)
    spread = math.sqrt(fmean((length - mean) ** 2 for length in group.lengths))
    limit = mean + max(deviations * spread, min_gap)
    pairs = zip(group.rewards, group.lengths, strict=True)
    return replace(group, rewards=tuple(reward if length > limit else own for own, length in pairs))


@GROUP_FILTERS.register("low_spread")
def low_spread(group: GroupOutcome, *, share: float = 0.5) -> GroupOutcome | None:
    """Left out where std(r) <= share x the moving average of std(r) over the steps so far: the filter of RLPR (arXiv
    2506.18254), for rewards that are no verdicts, of which no group has exactly equal ones. The paper's constants are
    not verified.

    Args:
        share: 0 leaves out groups of equal rewards alone.

    Raises:
        ValueError: share is negative.
    """
    if share < 0:
        raise ValueError(f"share={share} must be 0 or more")
    return group if pstdev(group.rewards) > share * (group.usual_spread or 0.0) else None


Step = Callable[[GroupOutcome], GroupOutcome | None]


def filters_of(algorithm: AlgorithmSettings) -> tuple[Step, ...]:
    """The filters that the recipe names, with their options.

    Raises:
        OptionError: an option that one of them does not have.
    """
    return tuple(with_options(GROUP_FILTERS[settings.name], settings.options) for settings in algorithm.group_filters)


def passed(group: ScoredGroup, filters: Sequence[Step], usual_spread: float | None = None) -> ScoredGroup | None:
    """The group as its filters leave it; None where one leaves it out. The greedy answer is none of their business.

    Args:
        usual_spread: see `GroupOutcome`.
    """
    if not filters:
        return group
    numbers = group.sampled
    answers = [group.trajectories[number].completion for number in numbers]
    outcome: GroupOutcome | None = GroupOutcome(
        tuple(group.scores[number].total for number in numbers),
        tuple(len(answer.token_ids) for answer in answers),
        tuple(answer.finish_reason == "length" for answer in answers),
        usual_spread=usual_spread,
    )
    for step in filters:
        outcome = None if outcome is None else step(outcome)
    if outcome is None:
        return None
    scores = list(group.scores)
    for number, total in zip(numbers, outcome.rewards, strict=True):
        scores[number] = replace(scores[number], total=total)
    return replace(group, scores=tuple(scores), masked=frozenset(numbers[place] for place in outcome.masked))
