"""The alarm on the gap between engine and learner: do they still compute the same distribution?

Pure. What it hears is the mean |learner's logprob - engine's| of tokens that both saw under the same weights, one value
at a time. The limit is absolute at first; once `EARLY` values have shown what is usual here, growth beyond `factor`
times their median counts too. Patience keeps it from ringing at one outlier, and from ringing on and off around the
limit: it rings once when `patience` values in a row are above the limit, then is silent until `patience` values in a
row are below `RELEASE` x the limit, which it says too.

Invariants: a gap that is not a number counts as above; where nothing could be compared (None) nothing changes; only
values within the limit set the scale, so that an early mismatch does not become the usual.
"""

from dataclasses import dataclass
from statistics import median

EARLY = 5
RELEASE = 0.7


@dataclass(frozen=True, slots=True)
class GapFinding:
    """`ringing`: the gap is too large, else it is small again. `limit` is the one it crossed, nats."""

    ringing: bool
    gap: float
    limit: float
    patience: int


@dataclass(frozen=True, slots=True)
class GapState:
    """What the alarm remembers: the values that set its scale, and how many in a row speak against its state."""

    early: tuple[float, ...] = ()
    crossing: int = 0
    ringing: bool = False


class GapAlarm:
    """Args:
    limit: a gap above this is too large, nats.
    factor: so is one above this many times the early median.
    floor: but none below this on that account, nats.
    patience: values in a row that it takes, to ring and to be silent again.
    """

    def __init__(self, *, limit: float, factor: float, patience: int, floor: float = 0.01) -> None:
        self._limit, self._factor, self._floor, self._patience = limit, factor, floor, patience
        self.state = GapState()

    @property
    def limit(self) -> float:
        """That counts now, nats."""
        early = self.state.early
        return self._limit if len(early) < EARLY else min(self._limit, max(self._floor, self._factor * median(early)))

    def observe(self, gap: float | None) -> GapFinding | None:
        """Take the next value; a finding where the alarm's state changes by it."""
        if gap is None:
            return None
        limit, early, ringing = self.limit, self.state.early, self.state.ringing
        within = gap <= (RELEASE * limit if ringing else limit)  # false for what is not a number
        if within and not ringing and len(early) < EARLY:
            early = (*early, gap)
        crossing = self.state.crossing + 1 if within == ringing else 0
        turns = crossing >= self._patience
        self.state = GapState(early, 0 if turns else crossing, ringing != turns)
        return GapFinding(not ringing, gap, limit, self._patience) if turns else None
