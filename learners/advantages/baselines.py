"""Estimators that differ in what a reward is compared with. A group of one reward gets zeros from all but `raw`."""

import math
from typing import Literal

from learners.advantages.estimator import ADVANTAGES, GroupRewards
from learners.needs import needs


@ADVANTAGES.register("raw")
def raw(group: GroupRewards) -> tuple[float, ...]:
    """A_i = r_i: no baseline (Williams 1992).

    With `algorithm.advantage_norm=batch_whiten` it is REINFORCE++ (arXiv 2501.03262), whose baseline is the batch's
    mean; with `task_baseline`, the moving baseline of SPIRAL (arXiv 2506.24119).
    """
    return group.rewards


@ADVANTAGES.register("grpo")
def grpo(
    group: GroupRewards, *, std: Literal["population", "sample"] = "population", eps: float = 1e-6
) -> tuple[float, ...]:
    """A_i = (r_i - mean(r)) / (std(r) + eps): GRPO (DeepSeekMath, arXiv 2402.03300, section 4.1.2).

    The paper writes std({r_1 ... r_G}), the deviation of the group itself: divisor G, `population`. Some
    implementations divide by G - 1: `sample`.
    """
    centred = dr_grpo(group)
    divisor = len(centred) - (1 if std == "sample" else 0)
    spread = math.sqrt(math.fsum(a * a for a in centred) / divisor) if divisor else 0.0
    # A group of one reward without its eps is 0 / 0.
    return tuple(a / (spread + eps) if a else 0.0 for a in centred)


@ADVANTAGES.register("dr_grpo")
def dr_grpo(group: GroupRewards) -> tuple[float, ...]:
    """A_i = r_i - mean(r): Dr. GRPO (arXiv 2503.20783), without the division by std and its bias towards prompts that
    are nearly always or nearly never solved.

    With `algorithm.advantage_norm=batch_std` it is REINFORCE++ with the group's baseline (arXiv 2501.03262).
    """
    mean = group.mean
    return tuple(reward - mean for reward in group.rewards)


@ADVANTAGES.register("rloo")
def rloo(group: GroupRewards) -> tuple[float, ...]:
    """A_i = r_i - mean of the other rewards: REINFORCE leave-one-out (arXiv 2402.14740, equation 8).

    An answer without others has no baseline and gets 0.
    """
    others = len(group.rewards) - 1
    if not others:
        return (0.0,)
    # r_i - (sum - r_i) / (G - 1) = (r_i - mean) * G / (G - 1)
    return tuple(a * (others + 1) / others for a in dr_grpo(group))


@ADVANTAGES.register("remax")
@needs("greedy_answer")
def remax(group: GroupRewards) -> tuple[float, ...]:
    """A_i = r_i - r(greedy answer to the same prompt): ReMax (arXiv 2310.10505).

    The baseline is the policy's own best guess: it does not depend on the sampled answers, so it is unbiased, also with
    one of them (`rollout.group_size=1`). The greedy answer is sampled beside the others and not trained on.
    """
    assert group.greedy is not None, "an estimator that needs a greedy answer gets its reward"
    return tuple(reward - group.greedy for reward in group.rewards)


@ADVANTAGES.register("ngrpo")
def ngrpo(group: GroupRewards, *, r_max: float = 1.0, eps: float = 1e-6) -> tuple[float, ...]:
    """A_i = (r_i - mean') / (std' + eps), both over the group and one virtual answer of reward r_max: NGRPO (arXiv
    2509.18851).

    An all-wrong group still pushes down: with rewards of 0 and r_max = 1 each answer gets -1 / sqrt(G). It needs
    `algorithm.drop_zero_variance=false`.

    Raises:
        ValueError: a reward is above r_max.
    """
    if max(group.rewards) > r_max:
        raise ValueError(f"r_max={r_max} is below a reward of {max(group.rewards)}")
    return grpo(GroupRewards((*group.rewards, r_max)), eps=eps)[:-1]
