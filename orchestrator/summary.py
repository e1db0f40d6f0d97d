"""summary.json: the run in one object. Pure arithmetic over what the run log saw; keys are a contract with tools."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Literal

from orchestrator.drafting.meter import SpeculationMeter

Status = Literal["completed", "interrupted", "failed"]
ENDS = 5
"""Steps at either end of the run whose mean reward counts as first and last: one step's mean is noise."""


@dataclass(slots=True)
class Tally:
    """What adds up over a run."""

    rewards: list[float] = field(default_factory=list)
    """Mean reward of each step's batch."""
    tokens_trained: int = 0
    samples: int = 0
    staleness_sum: float = 0.0
    staleness_max: int = 0
    syncs: int = 0
    attested: int = 0
    sync_seconds: list[float] = field(default_factory=list)
    faults_survived: int = 0
    drafter_versions: int = 0
    """Published in this run."""
    drafter_seconds: float = 0.0
    """Of the drafter's training and judging."""
    evals: dict[str, list[float]] = field(default_factory=dict)


def summarise(
    tally: Tally,
    *,
    status: Status,
    reason: str | None,
    wall_s: float,
    train_s: float,
    tokens_generated: int,
    prompts: Mapping[str, int],
    idle_fraction: Mapping[str, float],
    meter: SpeculationMeter,
) -> dict[str, object]:
    """The content of summary.json.

    Args:
        train_s: seconds from the first dispatch to the last step, without start-up and evaluation.
    """
    rewards = tally.rewards
    return {
        "status": status,
        "reason": reason,
        "steps": len(rewards),
        "wall_s": round(wall_s, 3),
        "train_s": round(train_s, 3),
        "reward_first": fmean(rewards[:ENDS]) if rewards else None,
        "reward_last": fmean(rewards[-ENDS:]) if rewards else None,
        "eval": {name: {"start": v[0], "end": v[-1]} for name, v in tally.evals.items() if v},
        "tokens_generated": tokens_generated,
        "tokens_trained": tally.tokens_trained,
        "samples_per_s": tally.samples / train_s if train_s > 0 else 0.0,
        "prompts": dict(prompts),
        "staleness": {
            "mean": tally.staleness_sum / tally.tokens_trained if tally.tokens_trained else 0.0,
            "max": tally.staleness_max,
        },
        "weight_sync": {
            "count": tally.syncs,
            "attested": tally.attested,
            "seconds_p50": median(tally.sync_seconds) if tally.sync_seconds else None,
        },
        "speculation": {
            "acceptance_length": meter.acceptance_length,
            "drafts": meter.drafts,
            "accepted": meter.accepted,
            "drafter_versions": tally.drafter_versions,
            "training_s": round(tally.drafter_seconds, 3),
        },
        "idle_fraction": dict(idle_fraction),
        "faults": {"injected": 0, "survived": tally.faults_survived},
    }
