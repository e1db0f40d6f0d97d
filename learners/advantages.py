"""Advantage estimators: from the rewards of one group to one number per answer.

Pure functions on plain floats, chosen by name (`ADVANTAGES`). Groups may differ in size. A group whose answers all got
one reward carries no signal: every estimator here gives it zeros, never NaN.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from learners.registry import Registry


@dataclass(frozen=True, slots=True)
class GroupRewards:
    """Rewards of the answers to one prompt, in order of sampling; finite, at least one."""

    rewards: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.rewards or not all(map(math.isfinite, self.rewards)):
            raise ValueError(f"a group needs finite rewards, at least one: {self.rewards}")


AdvantageEstimator = Callable[[GroupRewards], tuple[float, ...]]
ADVANTAGES: Registry[AdvantageEstimator] = Registry("algorithm.advantage")


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
    return tuple(a / (spread + eps) for a in centred)


@ADVANTAGES.register("dr_grpo")
def dr_grpo(group: GroupRewards) -> tuple[float, ...]:
    """A_i = r_i - mean(r): Dr. GRPO (arXiv 2503.20783), which leaves out the division by std and its bias
    towards prompts that are nearly always or nearly never solved."""
    if len(set(group.rewards)) == 1:
        # The mean of equal floats need not equal them to the last bit, and grpo would blow the difference up.
        return (0.0,) * len(group.rewards)
    mean = fmean(group.rewards)
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
