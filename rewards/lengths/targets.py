"""Terms that pay right answers for being short, against a target: `laser`, `laser_d`, `shortest_correct`,
`dot_truncation` and `drpo_length`."""

import math
from collections.abc import Sequence
from statistics import fmean, pstdev

from rewards.group import Group
from rewards.registry import Example, RefusedOptionError, group_term
from rewards.response import Fact, Response
from rewards.verdict import Verdict


def _answers(*answers: tuple[int, float]) -> Group:
    """A group of answers with these lengths and correctness values."""
    responses = tuple(
        Response(f"e/{number}", "", "...", response_tokens=length) for number, (length, _) in enumerate(answers)
    )
    return Group(responses, tuple({"math": value} for _, value in answers))


@group_term("laser", example=Example(_answers((100, 1), (101, 1), (10, 0)), (1.0, 0.0, 0.0), {"target": 100}))
def laser_reward(group: Group, *, target: int, of: str | None = None, correct_at: float = 1.0) -> list[float]:
    """1[right] 1[L <= L_target]: LASER's step bonus (arXiv 2505.15612); its alpha is the weight, 0.5 in the paper.

    Args:
        of, correct_at: see `rlcr`.
    """
    if target < 1:
        raise RefusedOptionError(f"target={target} must be above 0")
    return [
        float(hit and length <= target)
        for hit, length in zip(group.correct(of, correct_at), group.lengths, strict=True)
    ]


LEVELS = ("hard", "medium", "easy")


def level_of(share_right: float) -> str:
    """Difficulty by the share of right answers: up to a third is hard, above two thirds is easy."""
    return LEVELS[min(int(share_right * 3 - 1e-9), 2)] if share_right > 0 else LEVELS[0]


def smallest_target(grid: Sequence[int], coverage: Sequence[float], expected_right: float) -> int:
    """The smallest length within which at least one right answer of a group is to be expected: coverage times
    `expected_right` reaches 1; the largest where none does."""
    return next(
        (length for length, share in zip(grid, coverage, strict=True) if share * expected_right >= 1 - 1e-9), grid[-1]
    )


@group_term(
    "laser_d",
    example=Example(_answers((300, 1), (900, 1), (100, 0)), (1.0, 1.0, 0.0), {"grid": [512, 1024]}),
)
def laser_d_reward(
    group: Group, *, grid: Sequence[int], of: str | None = None, correct_at: float = 1.0
) -> list[Verdict]:
    """1[right] 1[L <= L_target(level)]: LASER-D (arXiv 2505.15612), whose target follows what the run sees.

    A group's level is its share of right answers (`level_of`). For each level and length of the grid the run remembers
    the coverage, a moving average of the share of its right answers that end within it; a truncated one never does. The
    target is the smallest length whose coverage times the level's expected right answers in a group of this size is at
    least 1, as in the paper, where a monitoring set and not the training itself gives the coverage. Before a level was
    seen its target is the largest of the grid.

    Args:
        grid: lengths that may be targets, ascending.
        of, correct_at: see `rlcr`.
    """
    if not grid or list(grid) != sorted(set(grid)) or grid[0] < 1:
        raise RefusedOptionError("grid must be lengths above 0, ascending")
    right, lengths = group.correct(of, correct_at), group.lengths
    level = level_of(fmean(right))
    ended = [math.inf if cut.truncated else length for cut, length in zip(group.responses, lengths, strict=True)]
    names = [f"laser_d/{level}/{length}" for length in grid]
    known = all(name in group.shared for name in names)
    expected = len(right) * (LEVELS.index(level) + 0.5) / len(LEVELS)
    target = smallest_target(grid, [group.shared[name] for name in names], expected) if known else grid[-1]
    return [
        Verdict(
            float(hit and length <= target),
            facts=tuple(
                Fact(name, float(end <= within), "average", shared=True)
                for name, within in zip(names, grid, strict=True)
                if hit
            ),
        )
        for hit, length, end in zip(right, lengths, ended, strict=True)
    ]


@group_term("shortest_correct", example=Example(_answers((80, 1), (60, 1), (10, 0)), (0.0, 1.0, 0.0)))
def shortest_correct_reward(group: Group, *, of: str | None = None, correct_at: float = 1.0) -> list[float]:
    """1.0 for the shortest right answers of the group, 0.0 for the others.

    Args:
        of, correct_at: see `rlcr`.
    """
    right, lengths = group.correct(of, correct_at), group.lengths
    shortest = min((length for length, hit in zip(lengths, right, strict=True) if hit), default=None)
    return [float(hit and length == shortest) for length, hit in zip(lengths, right, strict=True)]


@group_term(
    "dot_truncation",
    example=Example(_answers((10, 1), (10, 1), (10, 1), (90, 1)), (0.0, 0.0, 0.0, -1.0), {"outlier_k": 1.5}),
)
def dot_truncation_reward(
    group: Group, *, outlier_k: float = 2.0, min_gap: int = 0, of: str | None = None, correct_at: float = 1.0
) -> list[float]:
    """-1 for an answer longer than mean + k std of the group's lengths where all of it is right, else 0: the limit of
    DOT (Anti-Length-Shift). Added to a correctness term of weight 1, such an answer loses its reward.

    Args:
        outlier_k: k, with the std over the group (divisor n); at least 0. In a group of n no answer is further off than
            sqrt(n - 1) standard deviations.
        min_gap: tokens above the mean that are allowed in any case.
        of, correct_at: see `rlcr`.
    """
    if outlier_k < 0 or min_gap < 0:
        raise RefusedOptionError(f"outlier_k={outlier_k} and min_gap={min_gap} must be at least 0")
    if not all(group.correct(of, correct_at)):
        return [0.0] * len(group.responses)
    lengths = group.lengths
    limit = fmean(lengths) + max(outlier_k * pstdev(lengths), min_gap)
    return [-float(length > limit) for length in lengths]


def length_weights(lengths: Sequence[int], longest: int, temperature: float) -> list[float]:
    """exp((1 - L / longest) / temperature), normalised to the sum 1."""
    rewards = [(1 - length / longest) / temperature for length in lengths]
    top = max(rewards, default=0.0)
    weights = [math.exp(reward - top) for reward in rewards]
    return [weight / sum(weights) for weight in weights]


@group_term("drpo_length", example=Example(_answers((50, 1), (50, 1), (10, 0)), (1.0, 1.0, 0.0), {"longest": 100}))
def drpo_length_reward(
    group: Group, *, longest: int, temperature: float = 0.1, of: str | None = None, correct_at: float = 1.0
) -> list[float]:
    """n_right w_i for right answers, 0 for wrong ones, w = softmax over the right of (1 - L / L_max) / lambda: the
    positive-only length weights of DRPO (arXiv 2510.04474), whose mean over the right answers is 1.

    It is the whole reward: give the correctness term the weight 0. The weights are never below 0; that a long right
    answer gets no negative advantage either needs `algorithm.advantage=raw`, since a group's mean as the baseline may
    lie above it. DRPO's own loss, which is no policy gradient, is not this term's.

    Args:
        longest: L_max.
        temperature: lambda; a large one weighs all right answers alike.
        of, correct_at: see `rlcr`.
    """
    if longest < 1 or temperature <= 0:
        raise RefusedOptionError(f"longest={longest} and temperature={temperature} must be above 0")
    right = group.correct(of, correct_at)
    of_right = [length for length, hit in zip(group.lengths, right, strict=True) if hit]
    weights = iter(length_weights(of_right, longest, temperature))
    return [len(of_right) * next(weights) if hit else 0.0 for hit in right]
