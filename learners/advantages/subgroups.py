"""Estimators that compare an answer with some of its group more than with others."""

from collections.abc import Sequence
from statistics import fmean

from learners.advantages.estimator import ADVANTAGES, GroupRewards
from learners.needs import needs


@ADVANTAGES.register("dagrpo")
def dagrpo(group: GroupRewards, *, tau: float = 0.1, score: str = "", eps: float = 1e-6) -> tuple[float, ...]:
    """A_i = (1/G) sum over j with |s_i - s_j| >= tau of (r_i - r_j), over std(r) + eps: DaGRPO's distinctiveness mask
    (arXiv 2512.06337).

    GRPO's advantage is the mean over pairs (i, j) of their difference (derived). A pair of answers that score alike
    pulls nearly the same tokens both ways, and is left out; an answer without a distinct one gets 0. tau = 0 is `grpo`.

    Args:
        tau: least difference of scores that tells two answers apart, at least 0.
        score: name of the reward term that scores answers finely (its `label` in the log); empty takes the reward.

    Raises:
        ValueError: tau is negative, or no such term was scored.
    """
    if tau < 0:
        raise ValueError(f"tau={tau} must be at least 0")
    scores = _scores(group, score)
    pairs = [
        [mine - other if abs(s - t) >= tau else 0.0 for other, t in zip(group.rewards, scores, strict=True)]
        for mine, s in zip(group.rewards, scores, strict=True)
    ]
    spread = group.std + eps
    return tuple(fmean(row) / spread if any(row) else 0.0 for row in pairs)


def _scores(group: GroupRewards, name: str) -> Sequence[float]:
    if not name:
        return group.rewards
    missing = next((terms for terms in group.terms if name not in terms), None)
    if missing is not None:
        raise ValueError(f"score={name}: no such reward term was scored, there are {', '.join(missing) or 'none'}")
    return [terms[name] for terms in group.terms]


@ADVANTAGES.register("hbpo")
@needs("budgets")
def hbpo(group: GroupRewards, *, intra: float = 1.0, inter: float = 1.0, std: bool = True) -> tuple[float, ...]:
    """A_i = intra (r_i - m_k) / s_k + inter (m_k - m) / s: hierarchical budget policy optimization, HBPO (arXiv
    2507.15844).

    Answers are asked for under token budgets (`rollout.budgets`); m_k and s_k are mean and deviation of the rewards
    under the answer's own budget, m and s those of the budgets' means. So an answer is compared with others of its
    budget, and a budget with the others. Without `std` and with both weights 1 it is `dr_grpo` (derived); the paper's
    own scaling is not verified.

    Args:
        intra, inter: weights of the two comparisons, at least 0.
        std: divide by the deviations; one that is 0 gives no advantage.
    """
    if min(intra, inter) < 0:
        raise ValueError(f"intra={intra} and inter={inter} must be at least 0")
    parts: dict[int, list[float]] = {}
    for part, reward in zip(group.parts, group.rewards, strict=True):
        parts.setdefault(part, []).append(reward)
    means = {part: GroupRewards(tuple(rewards)).mean for part, rewards in parts.items()}
    # Every answer counts alike in the mean of the budgets, also where budgets have unequal numbers of them.
    of_answer = tuple(means[part] for part in group.parts)
    centre = GroupRewards(of_answer).mean
    within = {part: GroupRewards(tuple(rewards)).std if std else 1.0 for part, rewards in parts.items()}
    between = GroupRewards(of_answer).std if std else 1.0
    return tuple(
        intra * _scaled(reward - means[part], within[part]) + inter * _scaled(means[part] - centre, between)
        for part, reward in zip(group.parts, group.rewards, strict=True)
    )


def _scaled(value: float, scale: float) -> float:
    return value / scale if scale else 0.0
