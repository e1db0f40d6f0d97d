"""Does an engine hold the weights that the learner sent? Two pure judgements.

1. Checksums: what arrived equals what was sent, tensor by tensor. Catches a damaged or incomplete transfer.
2. Probe: the engine's logprobs of a fixed sequence equal the learner's own forward within a tolerance. Catches what a
   checksum cannot see: a wrong name, a stale packed copy, a half-applied update.
A small update hides inside the probe's tolerance, therefore the run opens with a drill whose update does not
(`weight_bus.WeightBus.drill`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from actors.rollout import Arrival
from actors.settings import Tolerance
from learners.weights import WeightTruth

SHOWN = 3
"""Tensors that a verdict names before it only counts them."""


@dataclass(frozen=True, slots=True)
class ProbeGap:
    """|engine - learner| over the probe's tokens, nats."""

    mean: float
    max: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """`failure` is None for an attested engine, else one line that says what is wrong."""

    gap: ProbeGap
    failure: str | None

    @property
    def attested(self) -> bool:
        return self.failure is None


def probe_gap(engine: Sequence[float], learner: Sequence[float]) -> ProbeGap:
    """Distance of two logprob sequences of equal length.

    Raises:
        ValueError: the lengths differ.
    """
    gaps = [abs(a - b) for a, b in zip(engine, learner, strict=True)]
    return ProbeGap(fmean(gaps), max(gaps))


def judge(truth: WeightTruth, arrival: Arrival, tolerance: Tolerance) -> Verdict:
    """Attest one engine's arrival against what the learner knows."""
    gap = probe_gap(arrival.probe_logprobs, truth.probe_logprobs)
    if arrival.version != truth.manifest.version:
        return Verdict(gap, f"version {arrival.version} arrived where {truth.manifest.version} was sent")
    missing = sorted(truth.checksums.keys() ^ arrival.checksums.keys())
    if missing:
        return Verdict(gap, f"{_named(missing)} sent or received alone")
    wrong = [name for name, value in truth.checksums.items() if arrival.checksums[name] != value]
    if wrong:
        return Verdict(gap, f"checksum of {_named(wrong)} differs from what was sent")
    # Written so that a NaN gap fails.
    if not (gap.mean <= tolerance.mean and gap.max <= tolerance.max):
        return Verdict(
            gap,
            f"all bytes arrived, yet probe logprobs differ by {gap.mean:.3g} (mean) and {gap.max:.3g} (max) nats, "
            f"allowed are {tolerance.mean:g} and {tolerance.max:g}",
        )
    return Verdict(gap, None)


def _named(tensors: Sequence[str]) -> str:
    more = f" and {len(tensors) - SHOWN} more" if len(tensors) > SHOWN else ""
    return ", ".join(tensors[:SHOWN]) + more
