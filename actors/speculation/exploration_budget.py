"""What may be spent on steps that may be slower than not drafting: a share of the time, never more.

Pure. Invariant: as long as `spend` is preceded by an `allows` of as much, spent <= share * earned + head start. So
where speculation never pays, at most that share of the time is spent on finding out.
"""


class ExplorationBudget:
    """Args:
    share: of the time, in [0, 1).
    """

    def __init__(self, share: float) -> None:
        if not 0 <= share < 1:
            raise ValueError(f"the share must lie in [0, 1), not {share:g}")
        self._share = share
        self._head_start_s: float | None = None
        self.earned_s = 0.0
        self.spent_s = 0.0

    @property
    def started(self) -> bool:
        return self._head_start_s is not None

    def start(self, head_start_s: float) -> None:
        """Seconds that may be spent before any share was earned. Nothing is allowed before."""
        self._head_start_s = head_start_s

    def earn(self, seconds: float) -> None:
        self.earned_s += seconds

    def spend(self, seconds: float) -> None:
        self.spent_s += seconds

    def allows(self, seconds: float) -> bool:
        """Whether so much may be spent now."""
        if self._head_start_s is None:
            return False
        return self.spent_s + seconds <= self._share * self.earned_s + self._head_start_s
