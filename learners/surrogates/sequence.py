"""One ratio for a whole answer. Both belong with `algorithm.aggregation: sequence`, which weighs answers alike."""

from torch import Tensor

from learners.by_sequence import sequence_mean
from learners.surrogates.surrogate import SURROGATES, SurrogateInput, clip_record, clipped


@SURROGATES.register("gspo")
def gspo(given: SurrogateInput) -> tuple[Tensor, dict[str, Tensor]]:
    """-w min(s A, clip(s, 1 - clip_low, 1 + clip_high) A), s = exp(mean_t log rho_t): GSPO (arXiv 2507.18071, eq. 5).

    Every token of an answer has the answer's loss, so that `sequence` aggregation sums it once. A mean over hundreds
    of tokens stays close to 1: the paper's bounds are clip_low=3e-4 and clip_high=4e-4.
    """
    return clipped(given, sequence_mean(given.log_ratio, given.sequence).exp())


@SURROGATES.register("gmpo")
def gmpo(given: SurrogateInput, *, log_low: float = 0.4, log_high: float = 0.4) -> tuple[Tensor, dict[str, Tensor]]:
    """-w A exp(mean_t d_t), d_t = log rho_t clipped where A pushes it out: GMPO (arXiv 2507.20673).

    The geometric mean of the tokens' clipped ratios stands where PPO has the arithmetic mean, so that one outlier
    moves little. d_t = min(log rho_t, log_high) where A > 0, max(log rho_t, -log_low) elsewhere; `clip_low` and
    `clip_high` mean nothing here.

    Args:
        log_low, log_high: bounds of the log-ratio, above 0; the paper's exp(-0.4) and exp(0.4).
    """
    if min(log_low, log_high) <= 0:
        raise ValueError(f"log_low={log_low} and log_high={log_high} must be above 0")
    log_ratio, seen = given.log_ratio, given.log_ratio.detach()
    positive = given.advantages > 0
    bounded = log_ratio.clamp(max=log_high).where(positive, log_ratio.clamp(min=-log_low))
    gain = sequence_mean(bounded, given.sequence).exp() * given.advantages
    return -given.weights * gain, clip_record(seen.exp(), ~positive & (seen < -log_low), positive & (seen > log_high))
