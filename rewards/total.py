"""How the values of the terms make a reward. Pure functions on the values as they are logged.

A term's value is logged under its label, or, where it answers several, each under ``label/name``; its value is then
their sum.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from numbers import Real

from rewards.settings import Condition, TermSettings
from rewards.verdict import TermValue


def total_of(terms: Sequence[TermSettings], values: Mapping[str, float]) -> tuple[float, dict[str, float]]:
    """The reward, and the values in the order of the recipe.

    From top to bottom: weight times value is added to what the terms above make, or multiplies it. A term without a
    value, because its condition does not hold, leaves the total as it is.
    """
    total, ordered = 0.0, {}
    for entry in terms:
        own = {name: value for name, value in values.items() if name.partition("/")[0] == entry.logged_as}
        if not own:
            continue
        ordered.update(own)
        part = entry.weight * sum(own.values())
        total = total * part if entry.combine == "multiply" else total + part
    return total, ordered


def holds(condition: Condition | None, values: Mapping[str, float]) -> bool:
    """Whether the term that it names has a value, and one that is high enough."""
    return condition is None or values.get(condition.term, -math.inf) >= condition.at_least


def named(label: str, value: TermValue) -> Iterator[tuple[str, float]]:
    """The value, or each of several, under the name that it is logged as.

    Raises: ValueError where one is no finite number.
    """
    several = {f"{label}/{name}": part for name, part in value.items()} if isinstance(value, Mapping) else None
    for name, part in (several if several is not None else {label: value}).items():
        if not isinstance(part, Real) or not math.isfinite(part):
            raise ValueError(f"{name} is {part!r}, not a finite number")
        yield name, float(part)
