"""Attestation's judgement on every kind of damage."""

import math
from dataclasses import replace

import pytest

from actors.rollout import Arrival
from actors.settings import Tolerance
from learners.weights import WeightManifest, WeightTruth
from orchestrator.attestation import judge, probe_gap

TOLERANCE = Tolerance(mean=0.1, max=0.5)
TRUTH = WeightTruth(WeightManifest(3, ()), {"a": 1, "b": 2}, (-1.0, -2.0, -3.0))
GOOD = Arrival(3, {"a": 1, "b": 2}, (-1.0, -2.05, -3.0), 1_000.0, 0.1)


def test_a_true_arrival_is_attested() -> None:
    verdict = judge(TRUTH, GOOD, TOLERANCE)
    assert verdict.attested
    assert verdict.gap.max == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (replace(GOOD, version=2), "version 2 arrived where 3 was sent"),
        (replace(GOOD, checksums={"a": 1, "b": 9}), "checksum of b"),
        (replace(GOOD, checksums={"a": 1}), "b sent or received alone"),
        (replace(GOOD, checksums={"a": 1, "b": 2, "c": 3}), "c sent or received alone"),
        (replace(GOOD, probe_logprobs=(-1.2, -2.2, -3.2)), "probe logprobs differ"),
        (replace(GOOD, probe_logprobs=(-1.0, -2.0, -3.6)), "probe logprobs differ"),
        (replace(GOOD, probe_logprobs=(-1.0, math.nan, -3.0)), "probe logprobs differ"),
    ],
)
def test_damage_is_named(damage: Arrival, says: str) -> None:
    verdict = judge(TRUTH, damage, TOLERANCE)
    assert not verdict.attested
    assert says in str(verdict.failure)


def test_a_probe_of_another_length_is_a_bug_not_a_pass() -> None:
    with pytest.raises(ValueError, match="zip"):
        probe_gap((-1.0,), (-1.0, -2.0))
