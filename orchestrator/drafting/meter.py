"""What speculation did between two training steps, and over the whole run: the engines' step records as metrics.

Pure. Acceptance length is tokens emitted per answer and forward pass of the target: over all steps (`all`), which is
what the run gains, and over those that verified drafts, which is what the drafter is worth.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from actors.speculation.arms import Arm, everywhere
from actors.speculation.step_record import StepRecord
from actors.speculation.step_statistics import summarise

TABLE = everywhere([Arm(1)])
"""Only its buckets of batch sizes are used."""


@dataclass(slots=True)
class PhaseCount:
    """Steps of one bucket of batch sizes with one draft length.

    Attributes:
        drafts: requests that had a draft verified; `accepted` drafted tokens of theirs stayed.
    """

    steps: int = 0
    drafts: int = 0
    accepted: int = 0
    emitted: int = 0
    seconds: float = 0.0


def by_phase(records: Iterable[StepRecord]) -> dict[tuple[int, int], PhaseCount]:
    """Counts by (first batch size of the bucket, draft length)."""
    phases: dict[tuple[int, int], PhaseCount] = {}
    for record in records:
        bucket = TABLE.buckets[TABLE.bucket(record.running)].first
        count = phases.setdefault((bucket, record.k), PhaseCount())
        count.steps += 1
        count.drafts += record.running if record.drafted else 0
        count.accepted += record.accepted
        count.emitted += record.emitted
        count.seconds += record.seconds
    return phases


@dataclass(slots=True)
class DraftCounts:
    """Over the run: verified drafted tokens, those of them that stayed, answers in all steps, and tokens emitted."""

    drafts: int = 0
    accepted: int = 0
    requests: int = 0
    emitted: int = 0


@dataclass(slots=True)
class SpeculationMeter:
    """Attributes: counts: what adds up over the run."""

    _records: list[StepRecord] = field(default_factory=list)
    counts: DraftCounts = field(default_factory=DraftCounts)

    @property
    def drafts(self) -> int:
        return self.counts.drafts

    @property
    def accepted(self) -> int:
        return self.counts.accepted

    def observe(self, records: Sequence[StepRecord]) -> None:
        """Steps of an engine."""
        self._records += records
        for record in records:
            self.counts.drafts += record.drafted
            self.counts.accepted += record.accepted
            self.counts.requests += record.running
            self.counts.emitted += record.emitted

    @property
    def acceptance_length(self) -> float:
        """Tokens per answer and forward pass over the run; 1 before any step."""
        return self.counts.emitted / self.counts.requests if self.counts.requests else 1.0

    def row(self) -> dict[str, float]:
        """Metrics of the steps since the last call; empty where there were none."""
        records, self._records = self._records, []
        if not records:
            return {}
        seen = summarise(records, TABLE)
        drafting = [record for record in records if record.drafted]
        requests = sum(record.running for record in drafting)
        return {
            "speculation/acceptance_length_all": sum(r.emitted for r in records) / sum(r.running for r in records),
            "speculation/acceptance_length": 1 + sum(r.accepted for r in drafting) / requests if requests else 1.0,
            "speculation/drafting_share": sum(share for k, share in seen.seconds_by_k.items() if k > 0),
            "speculation/detached_share": seen.detached,
            "speculation/catch_up_share": seen.catch_up,
            **{f"speculation/accepted_{n}": share for n, share in enumerate(seen.by_draft_position, 1)},
            **{f"speculation/bucket_{name}": tally.acceptance_length for name, tally in seen.by_bucket.items()},
            **{f"speculation/answer_{n}": tally.acceptance_length for n, tally in seen.by_answer_position.items()},
            **{f"speculation/staleness_{n}": tally.acceptance_length for n, tally in seen.by_staleness.items()},
        }
