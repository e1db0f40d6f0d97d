"""Losses of a chosen and a rejected answer to one prompt.

h = log pi / pi_ref (chosen) - log pi / pi_ref (rejected), sums over the answers' tokens. Where policy and reference are
one, h = 0 and `dpo` is log 2.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from learners.preferences.preference import Pairs, preference

Seen = dict[str, Tensor]


@preference("dpo", of="pairs", compares=True)
def dpo(given: Pairs, *, beta: float = 0.1, smoothing: float = 0.0) -> tuple[Tensor, Seen]:
    """-(1 - s) log sigmoid(beta h) - s log sigmoid(-beta h): DPO (arXiv 2305.18290, equation 7), s = 0.

    Args:
        beta: strength of the implied KL to the reference; smaller lets the policy go further.
        smoothing: s, the share of pairs that are assumed to be labelled the wrong way round (cDPO, Mitchell 2023).

    Raises:
        ValueError: beta is not above 0, or the smoothing not in [0, 0.5).
    """
    _above_zero(beta=beta)
    if not 0 <= smoothing < 0.5:
        raise ValueError(f"smoothing={smoothing} must be in [0, 0.5)")
    scaled = beta * given.margin
    return -(1 - smoothing) * logsigmoid(scaled) - smoothing * logsigmoid(-scaled), _compared(given)


@preference("ipo", of="pairs", compares=True)
def ipo(given: Pairs, *, tau: float = 0.1) -> tuple[Tensor, Seen]:
    """(h - 1 / (2 tau))^2: IPO (arXiv 2310.12036, equation 17).

    The margin is regressed to a finite value, so that pairs which are never contradicted do not drive it to infinity.
    """
    _above_zero(tau=tau)
    return (given.margin - 1 / (2 * tau)).square(), _compared(given)


@preference("rpo", of="pairs", compares=True)
def rpo(given: Pairs, *, beta: float = 0.1, alpha: float = 1.0) -> tuple[Tensor, Seen]:
    """-log sigmoid(beta h) - alpha log pi(chosen) / |chosen|: iterative RPO (arXiv 2404.19733).

    Built for chains of thought: `dpo` alone may lower the likelihood of the chosen answer, if less than the other's.
    """
    compared, seen = dpo(given, beta=beta)
    return compared - alpha * given.chosen_mean, seen


@preference("nca", of="pairs", compares=True)
def nca(given: Pairs, *, beta: float = 0.1) -> tuple[Tensor, Seen]:
    """-log sigmoid(c) - (log sigmoid(-c) + log sigmoid(-r)) / 2: NCA of two answers (arXiv 2402.05369).

    c and r are beta log pi / pi_ref of the chosen and of the rejected answer. Each stands against 0 and not against the
    other, which keeps the likelihood of the chosen from falling.
    """
    _above_zero(beta=beta)
    chosen, rejected = beta * given.chosen_gain, beta * given.rejected_gain
    noise = (logsigmoid(-chosen) + logsigmoid(-rejected)) / 2
    return -logsigmoid(chosen) - noise, _compared(given)


@preference("simpo", of="pairs", compares=False)
def simpo(given: Pairs, *, beta: float = 2.0, gamma: float = 1.0) -> tuple[Tensor, Seen]:
    """-log sigmoid(beta (log pi(chosen) / |chosen| - log pi(rejected) / |rejected|) - gamma): SimPO (arXiv 2405.14734).

    Its reward is the one that decoding goes by, the mean logprob; no reference is loaded.

    Args:
        gamma: margin by which the chosen answer's reward is to be the greater.
    """
    _above_zero(beta=beta)
    return -logsigmoid(beta * (given.chosen_mean - given.rejected_mean) - gamma), _means(given)


@preference("orpo", of="pairs", compares=False)
def orpo(given: Pairs, *, weight: float = 0.1) -> tuple[Tensor, Seen]:
    """-log p_c - weight log sigmoid(log odds(p_c) - log odds(p_r)): ORPO (arXiv 2403.07691, equation 6).

    p is exp of the mean logprob of an answer's tokens and odds(p) = p / (1 - p): likelihood of the chosen answer beside
    the odds ratio, without a reference.
    """
    chosen, rejected = given.chosen_mean, given.rejected_mean
    return -chosen - weight * logsigmoid(_log_odds(chosen) - _log_odds(rejected)), _means(given)


@preference("redi", of="pairs", compares=False)
def redi(given: Pairs, *, alpha: float = 0.8) -> tuple[Tensor, Seen]:
    """-log pi(chosen) / |chosen| + alpha log pi(rejected) / |rejected|: REDI (arXiv 2505.24850).

    Linear, so nothing bounds it: small learning rates. alpha = 0 is likelihood of the chosen answers alone.
    """
    return -given.chosen_mean + alpha * given.rejected_mean, _means(given)


def _log_odds(log_p: Tensor) -> Tensor:
    """log(p / (1 - p)) from log p < 0; a p of 1 up to rounding counts as just below it."""
    below = log_p.clamp(max=-torch.finfo(log_p.dtype).eps)
    return below - torch.log(-torch.expm1(below))


def _compared(given: Pairs) -> Seen:
    margin = given.margin.detach()
    return {
        "margin": margin,
        "accuracy": (margin > 0).float(),
        "chosen_gain": given.chosen_gain.detach(),
        "rejected_gain": given.rejected_gain.detach(),
    }


def _means(given: Pairs) -> Seen:
    chosen, rejected = given.chosen_mean.detach(), given.rejected_mean.detach()
    return {
        "margin": chosen - rejected,
        "accuracy": (chosen > rejected).float(),
        "chosen_logprob": chosen,
        "rejected_logprob": rejected,
    }


def _above_zero(**options: float) -> None:
    for name, value in options.items():
        if value <= 0:
            raise ValueError(f"{name}={value} must be above 0")
