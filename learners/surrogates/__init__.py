"""Surrogate losses: from log-probabilities and advantages to a loss per trained token.

Pure functions from a frozen input to (loss [N], what happened per token), chosen by name (`SURROGATES`); importing this
package registers all of them. They neither mask nor reduce: N counts trained tokens alone, and `learners.aggregation`
joins them.
"""

from learners.surrogates import gates, likelihood, ppo, preference, sequence, valuation
from learners.surrogates.surrogate import SURROGATES, Surrogate, SurrogateInput

__all__ = [
    "SURROGATES",
    "Surrogate",
    "SurrogateInput",
    "gates",
    "likelihood",
    "ppo",
    "preference",
    "sequence",
    "valuation",
]
