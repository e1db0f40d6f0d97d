"""A governor that may fail: its first error ends drafting, and not the engine that asked it.

Exactness does not depend on a governor, so an answer is better finished without drafts than lost. The governor may be
the user's own, so that any error is to be expected of it.

Invariants:
- only declared lengths are chosen;
- after the first error the wrapped governor is not called again, nothing is drafted, and `trouble` says why.
"""

from collections.abc import Callable, Collection

from actors.speculation.arms import Arm
from actors.speculation.step_governor import StepGovernor
from actors.speculation.step_record import StepRecord

NOTHING = Arm(0)


class GuardedGovernor:
    """A `StepGovernor`. Args: lengths: which it may choose.

    Attributes:
        trouble: why nothing is drafted any more; None while all is well.
    """

    def __init__(self, governor: StepGovernor, lengths: Collection[int]) -> None:
        self._governor, self._lengths = governor, frozenset(lengths)
        self.trouble: str | None = None

    @property
    def attached(self) -> bool:
        return self.trouble is None and self._governor.attached

    def choose(self, running: int, now: float) -> Arm:
        chosen: list[Arm] = []
        self._ask(lambda: chosen.append(self._governor.choose(running, now)))
        if not chosen:
            return NOTHING
        if chosen[0].k not in self._lengths:
            declared = ", ".join(map(str, sorted(self._lengths)))
            self._failed(f"it chose {chosen[0].k}, and the lengths are {declared}")
            return NOTHING
        return chosen[0]

    def observe(self, record: StepRecord) -> None:
        self._ask(lambda: self._governor.observe(record))

    def target_updated(self) -> None:
        self._ask(self._governor.target_updated)

    def drafter_updated(self) -> None:
        self._ask(self._governor.drafter_updated)

    def _ask(self, question: Callable[[], None]) -> None:
        if self.trouble is None:
            try:
                question()
            except Exception as error:  # noqa: BLE001 - the user's own code may raise anything; `trouble` reports it
                self._failed(f"{type(error).__name__}: {error}")

    def _failed(self, reason: str) -> None:
        self.trouble = f"the governor of draft lengths failed ({reason.splitlines()[0]}): nothing is drafted any more"
