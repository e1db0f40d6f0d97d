"""Advantages: from the rewards of one group to one number per answer, and what is done to a batch of them after.

Pure functions on plain floats, chosen by name (`ADVANTAGES`), then a norm over the batch (`NORMS`); importing this
package registers all of them. Groups may differ in size. Those that differ along an answer have registries of their
own: from probes of it (`TRACE_ADVANTAGES`), or from a critic's values (`learners.critic.advantages`).
"""

from learners.advantages import baselines, likelihoods, subgroups
from learners.advantages.estimator import ADVANTAGES, AdvantageEstimator, GroupRewards
from learners.advantages.norms import NORMS, AdvantageNorm, GroupAdvantages, MomentNorm
from learners.advantages.traces import TRACE_ADVANTAGES, Trace, TracedGroup, TraceEstimator

__all__ = [
    "ADVANTAGES",
    "NORMS",
    "TRACE_ADVANTAGES",
    "AdvantageEstimator",
    "AdvantageNorm",
    "GroupAdvantages",
    "GroupRewards",
    "MomentNorm",
    "Trace",
    "TraceEstimator",
    "TracedGroup",
    "baselines",
    "likelihoods",
    "subgroups",
]
