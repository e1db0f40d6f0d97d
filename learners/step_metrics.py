"""The metrics of a training step: what is recorded of each micro-batch, and under which names it is
reported."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from learners.meter import TokenMeter, TokenStatistics
from learners.micro_batch import MicroBatch


def record(
    meter: TokenMeter,
    *,
    loss: Tensor,
    entropy: Tensor,
    micro: MicroBatch,
    start: Tensor | None,
    seen: Mapping[str, Tensor],
) -> None:
    """Note one micro-batch.

    Args:
        loss: scalar, its share of the minibatch's loss.
        entropy: [N]; seen: [N] each, from the objective.
        start: [N] the learner's logprobs at the start of the batch, None where they were not computed.
    """
    meter.add("loss", loss.reshape(1))
    meter.add("trained_tokens", torch.ones_like(entropy))
    meter.add("entropy", entropy)
    meter.add("staleness", micro.staleness)
    for name, values in seen.items():
        meter.add(name, values)
    if start is not None:
        # Where learner and engine hold the same weights, what is left is the difference of two
        # implementations.
        gap = (start - micro.behaviour)[micro.staleness == 0]
        meter.add("engine_gap", gap.abs())
        # k3 estimate of KL(engine || learner) from the engine's samples (Schulman, "Approximating KL
        # divergence").
        meter.add("engine_gap_kl", gap.exp() - 1 - gap)


def describe(statistics: TokenStatistics, norms: Sequence[float]) -> dict[str, float]:
    """Name what was recorded: means are per trained token, over all ranks.

    Args:
        norms: gradient norm of each optimizer step.
    """
    clipped = {side: statistics.mean(f"clipped_{side}") for side in ("low", "high")}
    return {
        "loss": statistics.total("loss") / len(norms),
        "grad_norm": max(norms, key=lambda norm: (not math.isfinite(norm), norm)),
        "skipped_updates": float(sum(not math.isfinite(norm) for norm in norms)),
        "entropy": statistics.mean("entropy"),
        "ratio_mean": statistics.mean("ratio"),
        "ratio_max": statistics.maximum("ratio"),
        "clip_fraction": clipped["low"] + clipped["high"],
        "clip_fraction_low": clipped["low"],
        "clip_fraction_high": clipped["high"],
        "correction_weight_mean": statistics.mean("correction_weight"),
        "correction_bounded_fraction": statistics.mean("correction_bounded"),
        "engine_gap": statistics.mean("engine_gap"),
        "engine_gap_max": statistics.maximum("engine_gap"),
        "engine_gap_kl": statistics.mean("engine_gap_kl"),
        "staleness_mean": statistics.mean("staleness"),
        "staleness_max": statistics.maximum("staleness"),
        "trained_tokens": statistics.total("trained_tokens"),
    }
