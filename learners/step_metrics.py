"""The metrics of a training step: what is recorded of each micro-batch, and under which names it is
reported."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from learners.by_sequence import sequence_sum
from learners.meter import TokenMeter, TokenStatistics
from learners.micro_batch import MicroBatch


def record(
    meter: TokenMeter,
    *,
    entropy: Tensor,
    micro: MicroBatch,
    start: Tensor | None,
    seen: Mapping[str, Tensor],
) -> None:
    """Note one micro-batch.

    Args:
        entropy: [N]; seen: from the objective, [N] each, or an entry per answer or unit.
        start: [N] the learner's logprobs at the start of the batch, None where they were not computed.
    """
    meter.add("trained_tokens", torch.ones_like(entropy))
    meter.add("entropy", entropy)
    meter.add("staleness", micro.staleness)
    meter.add("off_policy", micro.off_policy)
    stale = micro.staleness > 0
    meter.add("stale", stale)
    for name, values in seen.items():
        meter.add(name, values)
    meter.add("correction_weight_square", seen["correction_weight"].double().square())
    if start is not None:
        own = ~micro.off_policy
        gap, old = (start - micro.behaviour)[own], stale[own]
        meter.add("policy_gap_stale", gap[old].abs())
        # Where learner and engine hold the same weights, what is left is the difference of two
        # implementations.
        gap = gap[~old]
        meter.add("engine_gap", gap.abs())
        # k3 estimate of KL(engine || learner) from the engine's samples (Schulman, "Approximating KL
        # divergence").
        meter.add("engine_gap_kl", gap.exp() - 1 - gap)
        # Behind an older token a fresh one may have read keys and values of the older weights (`kv_policy: keep`).
        unmixed = (sequence_sum(stale.to(micro.behaviour.dtype), micro.sequence) == 0) & own
        meter.add("engine_gap_unmixed", (start - micro.behaviour)[unmixed].abs())


_PARTS = ("term/", "mask/", "preference/")
"""Beginnings of names under which the parts of an objective say what they did."""


def describe(statistics: TokenStatistics, norms: Sequence[float]) -> dict[str, float]:
    """Name what was recorded: means are per trained token, over all ranks.

    Does staleness hurt? `policy_gap_stale` is the mean |learner's logprob at the start of the batch - behaviour's| of
    tokens sampled by older weights, to be held against `engine_gap`, the same of fresh tokens; `correction_ess` is
    the share of the batch's tokens that is left after weighing, 1 where all weigh the same.

    Do engine and learner compute the same? `engine_gap_unmixed` is the gap of answers without any older token: the
    only tokens for which both read the same weights all along. `engine_gap_unmixed_tokens` of them could be compared.

    Args:
        statistics: of `record`, and of `loss`, each rank's share of it for each optimizer step.
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
        "correction_ess": _effective_share(statistics),
        "engine_gap": statistics.mean("engine_gap"),
        "engine_gap_max": statistics.maximum("engine_gap"),
        "engine_gap_kl": statistics.mean("engine_gap_kl"),
        "engine_gap_unmixed": statistics.mean("engine_gap_unmixed"),
        "engine_gap_unmixed_tokens": statistics.count("engine_gap_unmixed"),
        "policy_gap_stale": statistics.mean("policy_gap_stale"),
        "policy_gap_stale_max": statistics.maximum("policy_gap_stale"),
        "stale_fraction": statistics.mean("stale"),
        "staleness_mean": statistics.mean("staleness"),
        "staleness_max": statistics.maximum("staleness"),
        "trained_tokens": statistics.total("trained_tokens"),
        "off_policy_fraction": statistics.mean("off_policy"),
        **{name: statistics.mean(name) for name in statistics.names() if name.startswith(_PARTS)},
    }


def _effective_share(statistics: TokenStatistics) -> float:
    """(sum w)^2 / (N sum w^2): Kish's effective sample size (Survey Sampling, 1965) over the sample's size."""
    square = statistics.mean("correction_weight_square")
    return statistics.mean("correction_weight") ** 2 / square if square else 0.0
