"""Estimators whose expected update climbs a function of the success rate p = P(right) other than p itself.

With rewards of 0 and 1, E[(r - p) grad log pi] = grad p; a group's scale f(p) turns it into the gradient of f's
integral. The success rate is the group's mean reward. A group of one reward gets zeros from all but `best_of_group`.
"""

from learners.advantages.baselines import dr_grpo
from learners.advantages.estimator import ADVANTAGES, GroupRewards


@ADVANTAGES.register("max_rl")
def max_rl(group: GroupRewards) -> tuple[float, ...]:
    """A_i = (r_i - mean(r)) / mean(r): maximum likelihood RL (arXiv 2602.02710).

    grad p / p = grad log p: the likelihood of a right answer, so that hard prompts weigh more. In expectation it is the
    likelihood's expansion in 1 - p up to as many terms as the group has answers.

    Raises:
        ValueError: a negative reward.
    """
    return tsallis(group, q=1.0)


@ADVANTAGES.register("tsallis")
def tsallis(group: GroupRewards, *, q: float = 0.5, floor: float = 0.0) -> tuple[float, ...]:
    """A_i = p^-q (r_i - p), p = max(mean(r), floor): GARL, which climbs log_q p = (p^(1 - q) - 1) / (1 - q).

    q = 0 is `dr_grpo`, q = 1 is `max_rl`; between them it escapes a cold start sooner. Derived: d log_q p = p^-q dp.

    Args:
        floor: smallest success rate that the scale is made of; it bounds the weight of a single lucky answer.

    Raises:
        ValueError: a negative reward, or q or floor outside [0, 1].
    """
    if min(group.rewards) < 0:
        raise ValueError(f"a success rate needs rewards of 0 or more, not {min(group.rewards)}")
    if not (0 <= q <= 1 and 0 <= floor <= 1):
        raise ValueError(f"q={q} and floor={floor} must be in [0, 1]")
    scale = max(group.mean, floor)
    # All wrong: every centred reward is 0, and stays it.
    return tuple(a / scale**q if scale else 0.0 for a in dr_grpo(group))


@ADVANTAGES.register("paft")
def paft(group: GroupRewards, *, q: float = 0.5) -> tuple[float, ...]:
    """A_i = p^-q r_i, p = mean(r): PAFT, supervised training on traces of the posterior (Tsallis J_Q, with GARL).

    A trace's posterior weight is its reward (the chance of the right answer behind it) over the group's sum, and the
    group weighs p^(1 - q): times G, for the mean over answers, that is p^(1 - q) r_i / p. It is what the paper's
    resampling gives on average, without its noise (derived). Against `tsallis` it lacks the baseline: no answer is
    pushed down. With `algorithm.surrogate=reinforce`.

    Args:
        q: 0 weighs by reward alone, 1 is the likelihood of the right answer.

    Raises:
        ValueError: a negative reward, or q outside [0, 1].
    """
    if min(group.rewards) < 0 or not 0 <= q <= 1:
        raise ValueError(f"needs rewards of 0 or more, not {min(group.rewards)}, and q={q} in [0, 1]")
    mean = group.mean
    return tuple(reward / mean**q if mean else 0.0 for reward in group.rewards)


@ADVANTAGES.register("best_of_group")
def best_of_group(group: GroupRewards, *, threshold: float = 0.0) -> tuple[float, ...]:
    """A_i = 1 for the best answers whose reward is above the threshold, else 0: RAFT (arXiv 2304.06767).

    With `algorithm.surrogate=reinforce` it is supervised training on the best of each group. Groups in which all
    answers are right train as well where `algorithm.drop_zero_variance=false`.
    """
    best = max(group.rewards)
    return tuple(float(reward == best and reward > threshold) for reward in group.rewards)
