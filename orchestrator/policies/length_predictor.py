"""How long an answer will become, guessed from the answers of its group that have ended.

Pure. Answers to one prompt tend to have similar lengths, so the first that ends tells about the rest: the prediction
is the greatest length among the finished answers of the group (Seer, arXiv 2511.14617, length context). Before any has
ended, it is what the prompt's groups took in earlier epochs; without those, there is no prediction, and who orders by
length treats that as longest.

Invariant: at most `remember` groups and `remember` prompts are kept. A group enters its prompt's history when it is
forgotten; beyond the bound the group heard from longest ago is forgotten, and the prompt used longest ago dropped.
"""

from collections import OrderedDict
from dataclasses import dataclass

NEWEST_WEIGHT = 0.5
"""Weight of the newest group in a prompt's history: an epoch later the policy is another one."""


@dataclass(frozen=True, slots=True)
class _Group:
    prompt_id: str
    longest: int


class LengthPredictor:
    """Args:
    remember: groups in progress, and prompts, that are kept.
    """

    def __init__(self, remember: int) -> None:
        if remember < 1:
            raise ValueError(f"remember must be at least 1, not {remember}")
        self._remember = remember
        self._groups: OrderedDict[int, _Group] = OrderedDict()
        self._history: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        """Entries kept, at most 2 * `remember`."""
        return len(self._groups) + len(self._history)

    def finished(self, prompt_id: str, group: int, tokens: int) -> None:
        """An answer of this group ended with this many tokens (by itself or at its bound, not because it was cut)."""
        known = self._groups.pop(group, None)
        if known is not None and known.prompt_id != prompt_id:
            raise ValueError(f"group {group} is of prompt {known.prompt_id}, not of {prompt_id}")
        self._groups[group] = _Group(prompt_id, tokens if known is None else max(known.longest, tokens))
        if len(self._groups) > self._remember:
            self.forget(next(iter(self._groups)))

    def predict(self, prompt_id: str, group: int) -> float | None:
        """Expected tokens of this group's unfinished answers; None if nothing is known."""
        known = self._groups.get(group)
        if known is not None:
            return known.longest
        if prompt_id in self._history:
            self._history.move_to_end(prompt_id)
        return self._history.get(prompt_id)

    def forget(self, group: int) -> None:
        """The group is over: what it took becomes part of its prompt's history. Unknown groups are ignored."""
        known = self._groups.pop(group, None)
        if known is None:
            return
        before = self._history.pop(known.prompt_id, float(known.longest))
        self._history[known.prompt_id] = before + NEWEST_WEIGHT * (known.longest - before)
        if len(self._history) > self._remember:
            self._history.popitem(last=False)
