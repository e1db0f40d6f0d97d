"""The reward of a recipe: its terms, resolved once, and their weighted sum for each response.

Invariant: `Reward.score` returns a score whatever a term does, short of ending the process or filling its memory. What
a term raises becomes one line in `Score.error`, and the total is then the fallback: half a sum would be a reward that
nobody asked for.
"""

import inspect
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from numbers import Real

from rewards.confinement import confined
from rewards.registry import Term, TermValue, resolve
from rewards.response import Response, Score
from rewards.settings import RewardSettings, TermSettings

_LONGEST_ERROR = 300


class RewardSetupError(RuntimeError):
    """The reward of the recipe cannot work: a term is missing, or refuses its options. One line."""


class Reward:
    """The weighted sum of the terms of `settings`.

    Raises: RewardSetupError where a term cannot be found or imported, or does not take its options.
    """

    def __init__(self, settings: RewardSettings) -> None:
        self._fallback = settings.fallback
        self._terms = tuple((entry, _resolved(entry)) for entry in settings.terms)

    def warm_up(self) -> None:
        """Score each term's own example, so that everything loaded or compiled on first use is there."""
        for entry, resolved in self._terms:
            if resolved.example is not None:
                resolved.function(resolved.example, **entry.options)

    def score(self, response: Response) -> Score:
        """The verdict; terms are logged in the order of the recipe, those before a failed one included.

        A term that answers several values logs each as ``label/name``; its weight counts for all of them.

        Raises: MemoryError, which is the process's business: what filled the memory may stay.
        """
        started = time.perf_counter()
        terms: dict[str, float] = {}
        total, error = 0.0, None
        for entry, resolved in self._terms:
            try:
                with confined() if resolved.confined else nullcontext():
                    value = resolved.function(response, **entry.options)
                values = dict(_named(entry.logged_as, value))
            except MemoryError:
                raise
            except Exception as raised:  # noqa: BLE001 - a term is anybody's code and may raise anything; it is reported
                error = one_line(entry.logged_as, raised)
                break
            terms.update(values)
            total += entry.weight * sum(values.values())
        return Score(self._fallback if error else total, terms, error, time.perf_counter() - started)


def one_line(label: str, raised: BaseException) -> str:
    """An exception as a line of bounded length; its text may come from a model."""
    reason = " ".join(f"{type(raised).__name__}: {raised}".split())
    return f"{label}: {reason}"[:_LONGEST_ERROR].encode("utf-8", "replace").decode()


def _resolved(entry: TermSettings) -> Term:
    try:
        resolved = resolve(entry.name)
    except Exception as raised:  # importing a user's module may raise anything
        raise RewardSetupError(one_line(f"reward.terms[{entry.name}]", raised)) from raised
    signature = inspect.signature(resolved.function)
    try:
        signature.bind(None, **entry.options)
    except TypeError as mismatch:
        taken = ", ".join(list(signature.parameters)[1:]) or "none"
        raise RewardSetupError(f"reward.terms[{entry.name}].options: {mismatch}; it takes: {taken}") from mismatch
    return resolved


def _named(label: str, value: TermValue) -> Iterator[tuple[str, float]]:
    entries = (
        {f"{label}/{name}": part for name, part in value.items()} if isinstance(value, Mapping) else {label: value}
    )
    for name, part in entries.items():
        if not isinstance(part, Real) or not math.isfinite(part):
            raise ValueError(f"{name} is {part!r}, not a finite number")
        yield name, float(part)
