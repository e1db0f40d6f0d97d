"""Bounds that weigh a token instead of silencing it, and a bound by divergence instead of by ratio."""

import torch
from torch import Tensor

from learners.surrogates.surrogate import SURROGATES, SurrogateInput, clip_record, pushed_out


@SURROGATES.register("gppo")
def gppo(given: SurrogateInput) -> tuple[Tensor, dict[str, Tensor]]:
    """`ppo_clip` in value, but what is clipped keeps a bounded gradient: GPPO (Klear-Reasoner, arXiv 2508.07629).

    loss = -w c A rho / sg(rho) with c = 1 + clip_high where A > 0 and rho is above it, 1 - clip_low where A < 0 and
    rho is below it, else rho; so the weight on A grad logp is c. sg is the stop-gradient.
    """
    ratio = given.log_ratio.detach().exp()
    low, high = pushed_out(given, ratio)
    weight = torch.where(low, 1 - given.clip_low, torch.where(high, 1 + given.clip_high, ratio))
    return -given.weights * given.advantages * weight * _one(given.logprobs), clip_record(ratio, low, high)


@SURROGATES.register("cispo")
def cispo(given: SurrogateInput) -> tuple[Tensor, dict[str, Tensor]]:
    """-w sg(clip(rho, 1 - clip_low, 1 + clip_high)) A logp: CISPO (MiniMax-M1, arXiv 2506.13585).

    The importance weight is clipped and not the update: every token keeps its gradient. The paper leaves the lower
    bound open: `clip_low` close to 1.
    """
    ratio = given.log_ratio.detach().exp()
    weight = ratio.clamp(1 - given.clip_low, 1 + given.clip_high)
    low, high = ratio < 1 - given.clip_low, ratio > 1 + given.clip_high
    return -given.weights * weight * given.advantages * given.logprobs, clip_record(ratio, low, high)


@SURROGATES.register("sapo")
def sapo(given: SurrogateInput, *, tau_pos: float = 1.0, tau_neg: float = 1.05) -> tuple[Tensor, dict[str, Tensor]]:
    """-w (4 / tau) sigmoid(tau (rho - 1)) A: SAPO's soft gate (arXiv 2511.20347).

    The weight on A grad logp is 4 p (1 - p) rho with p = sigmoid(tau (rho - 1)): 1 where rho = 1, and fading on both
    sides. `clip_low` and `clip_high` mean nothing here.

    Args:
        tau_pos, tau_neg: how fast the gate closes where A > 0, and elsewhere; above 0.
    """
    if min(tau_pos, tau_neg) <= 0:
        raise ValueError(f"tau_pos={tau_pos} and tau_neg={tau_neg} must be above 0")
    ratio = given.log_ratio.exp()
    positive = given.advantages > 0
    tau = torch.where(positive, torch.full_like(ratio, tau_pos), torch.full_like(ratio, tau_neg))
    gain = 4 / tau * torch.sigmoid(tau * (ratio - 1)) * given.advantages
    return -given.weights * gain, {"ratio": ratio.detach()}


@SURROGATES.register("dppo_tv")
def dppo_tv(given: SurrogateInput, *, threshold: float = 0.15) -> tuple[Tensor, dict[str, Tensor]]:
    """-w m rho A, m = 0 where the token moves away and |p - p_old| > threshold: DPPO with total variation.

    (Divergence PPO, arXiv 2602.04879, its binary approximation: the token against all others.) A ratio says little of
    a rare token, whose probability may double without moving the policy; the difference of probabilities does. Moving
    away: rho > 1 where A > 0, rho < 1 where A < 0. `clip_low` and `clip_high` mean nothing here.
    """
    p, old = given.logprobs.detach().exp(), given.old_logprobs.exp()
    return _masked_by(given, (p - old).abs() > threshold)


@SURROGATES.register("dppo_kl")
def dppo_kl(given: SurrogateInput, *, threshold: float = 0.05) -> tuple[Tensor, dict[str, Tensor]]:
    """`dppo_tv` with the binary KL(old || new) = q log(q / p) + (1 - q) log((1 - q) / (1 - p)) (arXiv 2602.04879).

    q = p_old, p the token's probability now; what is above `threshold` gives no gradient. The paper anchors both on the
    policy that sampled: `algorithm.old_logprobs=behaviour`.
    """
    tiny = torch.finfo(torch.float32).tiny
    log_p, log_q = given.logprobs.detach(), given.old_logprobs
    q, rest_p, rest_q = log_q.exp(), -torch.expm1(log_p), -torch.expm1(log_q)
    others = rest_q * (rest_q.clamp(min=tiny).log() - rest_p.clamp(min=tiny).log())
    return _masked_by(given, q * (log_q - log_p) + others > threshold)


def _masked_by(given: SurrogateInput, far: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    ratio = given.log_ratio.exp()
    seen = ratio.detach()
    low = far & (seen < 1) & (given.advantages < 0)
    high = far & (seen > 1) & (given.advantages > 0)
    kept = (~(low | high)).to(ratio.dtype)
    return -given.weights * kept * ratio * given.advantages, clip_record(seen, low, high)


def _one(logprobs: Tensor) -> Tensor:
    """1 in value, grad logp in gradient."""
    return (logprobs - logprobs.detach()).exp()
