"""How many drafted tokens are kept, by their position in the draft.

Pure. For each position, the share of drafts that were kept there among those kept up to there, with older steps
weighing less. A position is expected to do as the one before it until it was seen itself: so a draft length that was
never tried is judged by the shorter ones.

Invariant: 0 <= expected(k) <= k, and it never falls in k.
"""

import math
from collections.abc import Sequence

MEMORY = 500
"""Drafting steps after which an old one weighs 1/e."""
STRENGTH = 4.0
"""Drafts that the expectation at a position is worth before any was seen there."""
REFRESH_EVERY = 16
"""Steps between two sets of expectations: they move slowly, and every decision asks for them."""


class Acceptance:
    """Args:
    longest: the longest draft that will be asked about.
    prior: share of first tokens that is expected to be kept before anything was drafted, in (0, 1).
    """

    def __init__(self, longest: int, prior: float) -> None:
        if longest < 0 or not 0 < prior < 1:
            raise ValueError(f"longest must be at least 0 and prior in (0, 1), not {longest} and {prior:g}")
        self._prior, self._longest = prior, longest
        self._reached = [0.0] * longest
        self._kept = [0.0] * longest
        self._keep = math.exp(-1 / MEMORY)
        self._seen = 0
        self.version = 0
        self._refresh()

    def expected(self, k: int) -> float:
        """Kept tokens of a draft of k."""
        return self._expected[k]

    def log_deviation(self, k: int) -> float:
        """Standard deviation of the logarithm of the tokens that a step with k drafts emits for each request."""
        return self._deviation[k]

    @property
    def by_position(self) -> tuple[float, ...]:
        """Share kept at each position of those kept up to there."""
        return tuple(self._shares)

    def observe(self, k: int, drafts: float, accepted: int, by_position: Sequence[int]) -> None:
        """Take a step into account.

        Args:
            drafts: requests with a draft of k tokens.
            accepted: their kept tokens together.
            by_position: of those drafts, how many kept at least 1, 2, ... tokens. Empty: as if each position kept the
                same share of what reached it.
        """
        if k < 1 or drafts <= 0:
            return
        counts = by_position or spread(k, drafts, accepted)
        keep, reached = self._keep, drafts
        for i in range(k):
            kept = counts[i] if i < len(counts) else 0.0
            self._reached[i] = keep * self._reached[i] + reached
            self._kept[i] = keep * self._kept[i] + kept
            if not kept:
                break
            reached = kept
        self._seen += 1
        if self._seen <= REFRESH_EVERY or self._seen % REFRESH_EVERY == 0:
            self._refresh()

    def discount(self, keep: float) -> None:
        """Let all that was seen weigh `keep` of what it did."""
        self._reached = [keep * value for value in self._reached]
        self._kept = [keep * value for value in self._kept]
        self._refresh()

    def _refresh(self) -> None:
        shares, share = [], self._prior
        expected, deviation, high = [0.0], [0.0], 0.0
        alive, alive_high = 1.0, 1.0
        for reached, kept in zip(self._reached, self._kept, strict=True):
            share = (kept + STRENGTH * share) / (reached + STRENGTH)
            shares.append(share)
            alive *= share
            alive_high *= min(1.0, share + math.sqrt(share * (1 - share) / (reached + STRENGTH)))
            expected.append(expected[-1] + alive)
            high += alive_high
            deviation.append(math.log((1 + high) / (1 + expected[-1])))
        self._shares, self._expected, self._deviation = shares, expected, deviation
        self.version += 1


def spread(k: int, drafts: float, accepted: float) -> list[float]:
    """Drafts that kept at least 1, ..., k tokens if every position keeps the same share of what reaches it.

    Args:
        accepted: kept tokens of all drafts together, at most k * drafts.
    """
    mean = accepted / drafts
    if mean <= 0:
        return [0.0] * k
    low, high = 0.0, 1.0
    for _ in range(14):
        share = (low + high) / 2
        # 1 + share + ... + share^k = (1 - share^(k+1)) / (1 - share)
        if (1 - share ** (k + 1)) / (1 - share) - 1 < mean:
            low = share
        else:
            high = share
    share = (low + high) / 2
    return [drafts * share**i for i in range(1, k + 1)]
