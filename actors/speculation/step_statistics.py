"""What a run's step records say about speculation, for metrics and reports.

Pure. **Acceptance length** is tokens emitted per request and step, the bonus token included: 1 without speculation.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from actors.speculation.arms import ArmTable
from actors.speculation.step_record import StepRecord

Key = TypeVar("Key", int, str)


@dataclass(frozen=True, slots=True)
class Tally:
    """Drafts (one per request and step), their kept tokens, and the mean acceptance length that follows."""

    drafts: int
    accepted: int

    @property
    def acceptance_length(self) -> float:
        return 1 + self.accepted / self.drafts if self.drafts else 1.0


@dataclass(frozen=True, slots=True)
class StepStatistics:
    """Over the steps that verified drafts; the seconds are over all.

    Attributes:
        by_bucket: by batch size, named as the bucket.
        by_draft_position: share of the drafts that reached a position which was kept there; only from records that
            say so.
        by_answer_position: by the first of `answer_step` positions in the answer; only from records that say so.
        by_staleness: by published target versions since the drafter's.
        seconds_by_k: share of the time spent with each draft length.
        detached: share of the time without the drafter's pass.
        catch_up: share of the time spent on catching up.
    """

    by_bucket: Mapping[str, Tally]
    by_draft_position: tuple[float, ...]
    by_answer_position: Mapping[int, Tally]
    by_staleness: Mapping[int, Tally]
    seconds_by_k: Mapping[int, float]
    detached: float
    catch_up: float


def summarise(records: Iterable[StepRecord], table: ArmTable, answer_step: int = 256) -> StepStatistics:
    """Statistics of a run or a part of it.

    Args:
        answer_step: tokens of an answer that are counted together.
    """
    by_bucket: dict[str, Tally] = {}
    by_answer: dict[int, Tally] = {}
    by_staleness: dict[int, Tally] = {}
    seconds: dict[int, float] = {}
    reached: list[int] = []
    kept: list[int] = []
    total = detached = catch_up = 0.0
    for record in records:
        total += record.seconds
        catch_up += record.catch_up_s
        detached += 0.0 if record.attached else record.seconds
        seconds[record.k] = seconds.get(record.k, 0.0) + record.seconds
        if not record.k or not record.drafted:
            continue
        _add(by_bucket, str(table.buckets[table.bucket(record.running)]), record.running, record.accepted)
        _add(by_staleness, record.drafter_staleness, record.running, record.accepted)
        for share in record.by_answer:
            _add(by_answer, share.position // answer_step * answer_step, share.requests, share.accepted)
        if record.by_position:
            _count_positions(record, reached, kept)
    return StepStatistics(
        by_bucket,
        tuple(k / r for k, r in zip(kept, reached, strict=True) if r),
        dict(sorted(by_answer.items())),
        dict(sorted(by_staleness.items())),
        {k: value / total for k, value in sorted(seconds.items())} if total else {},
        detached / total if total else 0.0,
        catch_up / total if total else 0.0,
    )


def _add(tallies: dict[Key, Tally], key: Key, drafts: int, accepted: int) -> None:
    before = tallies.get(key, Tally(0, 0))
    tallies[key] = Tally(before.drafts + drafts, before.accepted + accepted)


def _count_positions(record: StepRecord, reached: list[int], kept: list[int]) -> None:
    alive = record.running
    for position in range(record.k):
        now = record.by_position[position] if position < len(record.by_position) else 0
        if position == len(reached):
            reached.append(0)
            kept.append(0)
        reached[position] += alive
        kept[position] += now
        alive = now
