"""Advantages: from the rewards of one group to one number per answer, and what is done to a batch of them after.

Pure functions on plain floats, chosen by name (`ADVANTAGES`), then a norm over the batch (`NORMS`); importing this
package registers all of them. Groups may differ in size.
"""

from learners.advantages import baselines, likelihoods
from learners.advantages.estimator import ADVANTAGES, AdvantageEstimator, GroupRewards
from learners.advantages.norms import NORMS, AdvantageNorm, GroupAdvantages

__all__ = [
    "ADVANTAGES",
    "NORMS",
    "AdvantageEstimator",
    "AdvantageNorm",
    "GroupAdvantages",
    "GroupRewards",
    "baselines",
    "likelihoods",
]
