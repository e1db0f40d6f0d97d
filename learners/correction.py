"""Importance correction between who sampled a token (the engine, perhaps under older weights) and who is
trained.

Two knobs that do not know each other. The level says what one weight is the ratio of:
- token: w_t = exp(d_t), d = proximal - behaviour logprob;
- sequence: w_t = exp(sum_t d_t), one for the whole answer, unbiased and of high variance;
- geometric: w_t = exp(mean_t d_t), its length-free form (GSPO's ratio, arXiv 2507.18071, equation 7).
The mode says what happens outside [low, high]:
- truncate: min(w, high), truncated importance sampling (IMPALA, arXiv 1802.01561, section 4.1);
- clip: min(max(w, low), high);
- mask: w inside, 0 outside (IcePop, arXiv 2510.18855, section 3.2);
- off: 1 everywhere, whatever the level.

Each token's d_t is of the very weights that sampled it, so an answer sampled over several versions needs no special
care: the product over its tokens is the ratio to the mixture that wrote it. Published methods are names for settings
of the knobs (`learners.correction_presets`).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from learners.by_sequence import sequence_mean, sequence_sum
from learners.correction_presets import Level, Mode


@dataclass(frozen=True, slots=True, eq=False)
class CorrectionInput:
    """Attributes:
    proximal: [N] logprobs of the trained tokens under the weights that the surrogate's ratio starts from.
    behaviour: [N] logprobs under the weights and engine that sampled them.
    sequence: [N] index of each token's sequence; all trained tokens of a sequence are present.
    low, high: bounds of the mode.
    """

    proximal: Tensor
    behaviour: Tensor
    sequence: Tensor
    low: float = 0.5
    high: float = 2.0


def correction_weights(given: CorrectionInput, level: Level, mode: Mode) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Weight of each token: [N], without gradient.

    Returns:
        the weights, and per token `correction_weight` and `correction_bounded` (1 where the mode changed the
        ratio).
    """
    gap = (given.proximal - given.behaviour).detach()
    if mode == "off":
        weights = torch.ones_like(gap)
        return weights, {"correction_weight": weights, "correction_bounded": torch.zeros_like(gap)}
    ratio = _per_level(gap, given.sequence, level).exp()
    if mode == "truncate":
        weights = ratio.clamp(max=given.high)
    elif mode == "clip":
        weights = ratio.clamp(given.low, given.high)
    else:
        weights = torch.where((ratio >= given.low) & (ratio <= given.high), ratio, torch.zeros_like(ratio))
    return weights, {"correction_weight": weights, "correction_bounded": (weights != ratio).float()}


def _per_level(gap: Tensor, sequence: Tensor, level: Level) -> Tensor:
    if level == "token":
        return gap
    return sequence_sum(gap, sequence) if level == "sequence" else sequence_mean(gap, sequence)
