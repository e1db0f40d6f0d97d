"""Which prompts are no longer scored, because the scoring of their answers runs into its deadline again and again.

Each such visit costs a child process, its restart and the whole deadline; a prompt that does so every time it comes
costs a run more than it can teach.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from rewards.response import Score


class Quarantine:
    """Args: visits: in which an answer's scoring ran into its deadline before its prompt is given up; 0: never."""

    def __init__(self, visits: int) -> None:
        self._visits = visits
        self._hung: Counter[str] = Counter()

    def holds(self, item: str) -> bool:
        """Whether answers to this item are no longer scored."""
        return self._visits > 0 and self._hung[item] >= self._visits

    def seen(self, item: str, scores: Sequence[Score]) -> bool:
        """A visit is over. Returns: whether the item goes into quarantine with it."""
        if not item or not any(score.failure is not None and score.failure.kind == "timeout" for score in scores):
            return False
        self._hung[item] += 1
        return self._hung[item] == self._visits

    def state(self) -> dict[str, int]:
        """Visits that hung, by item: what `restore` needs."""
        return dict(self._hung)

    def restore(self, state: Mapping[str, int]) -> None:
        """Go on where another quarantine was."""
        self._hung = Counter(state)
