"""What terms remember about prompts from one visit to the next.

Invariants: what is noted is seen only after `turn`, so that all answers of a step meet the same memory; within a turn
the order of the notes does not matter; at most `capacity` prompts are remembered, and the one visited longest ago goes
first. `state` is plain JSON and holds what was noted since the last turn as well.
"""

from collections.abc import Iterable, Mapping
from statistics import fmean

from pydantic import JsonValue, TypeAdapter

from rewards.response import Fact

Facts = dict[str, float]
_STORED = TypeAdapter(dict[str, Facts])
_NOTED = TypeAdapter(list[tuple[str, Fact]])
_SHARED = ""
"""The item whose facts are the whole run's."""


class PromptHistory:
    """Args:
    capacity: prompts remembered.
    rate: share of the way that an `average` goes towards the mean of a turn's new values.
    """

    def __init__(self, capacity: int = 100_000, rate: float = 0.1) -> None:
        self._capacity, self._rate = capacity, rate
        self._facts: dict[str, Facts] = {}  # visited longest ago first
        self._run: Facts = {}
        self._noted: list[tuple[str, Fact]] = []

    def __len__(self) -> int:
        """Prompts remembered."""
        return len(self._facts)

    @property
    def shared(self) -> Mapping[str, float]:
        """Facts about the whole run."""
        return dict(self._run)

    def of(self, item: str) -> Mapping[str, float]:
        """Facts about one item of the data."""
        return dict(self._facts.get(item, {}))

    def note(self, item: str, facts: Iterable[Fact]) -> None:
        """Keep facts for the next turn; those about a prompt without a name are dropped."""
        self._noted += [(_SHARED if fact.shared else item, fact) for fact in facts if fact.shared or item != _SHARED]

    def turn(self) -> None:
        """A step is over: what was noted is remembered."""
        noted, self._noted = self._noted, []
        together: dict[tuple[str, str], list[Fact]] = {}
        for item, fact in noted:
            together.setdefault((item, fact.name), []).append(fact)
        for item, name in sorted(together):
            self._merge(item, name, together[item, name])
        while len(self._facts) > self._capacity:
            del self._facts[next(iter(self._facts))]

    def state(self) -> dict[str, JsonValue]:
        """What `restore` needs."""
        return {
            "facts": _STORED.dump_python(self._facts, mode="json"),
            "run": dict(self._run),
            "noted": _NOTED.dump_python(self._noted, mode="json"),
        }

    def restore(self, state: Mapping[str, JsonValue]) -> None:
        """Raises: pydantic.ValidationError where `state` is none."""
        self._facts = _STORED.validate_python(state["facts"])
        self._run = _STORED.validate_python({_SHARED: state["run"]})[_SHARED]
        self._noted = _NOTED.validate_python(state["noted"])

    def _merge(self, item: str, name: str, facts: list[Fact]) -> None:
        remembered = self._run if item == _SHARED else self._facts.pop(item, {})
        if item != _SHARED:
            self._facts[item] = remembered  # to the end: visited last
        old = remembered.get(name)
        values = [fact.value for fact in facts]
        if facts[0].rule == "least":
            remembered[name] = min(values if old is None else [old, *values])
        else:
            new = fmean(sorted(values))
            remembered[name] = new if old is None else old + self._rate * (new - old)
