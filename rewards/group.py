"""What a group term sees: the answers to one prompt, what the terms before it found, and what is remembered.

Answers whose scoring failed are not among them: nobody knows whether they are right.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from rewards.response import Response


@dataclass(frozen=True, slots=True)
class Group:
    """The scored answers of one prompt, n of them.

    Attributes:
        responses: in sample order.
        terms: for each response the values of the terms before this one, in the order of the recipe.
        history: facts about this prompt, from earlier visits.
        shared: facts about the whole run.
    """

    responses: tuple[Response, ...]
    terms: tuple[Mapping[str, float], ...]
    history: Mapping[str, float] = field(default_factory=dict)
    shared: Mapping[str, float] = field(default_factory=dict)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each answer. Raises: ValueError where they were not counted."""
        counts = tuple(response.response_tokens for response in self.responses)
        if any(response.text and not count for response, count in zip(self.responses, counts, strict=True)):
            raise ValueError("the responses carry no token counts, and this term needs them")
        return counts

    def correct(self, of: str | None, at_least: float) -> tuple[bool, ...]:
        """Whether each answer is right.

        Args:
            of: name, as logged, of the term that says so; None takes the recipe's first.

        Raises: ValueError where there is no such term before this one.
        """
        return tuple(_value(values, of) >= at_least for values in self.terms)


def _value(values: Mapping[str, float], of: str | None) -> float:
    if not values:
        raise ValueError("no term stands before this one to say which answers are right; put one first")
    name = next(iter(values)) if of is None else of
    if name not in values:
        raise ValueError(f"no term before this one is logged as {name!r}; there are {', '.join(values)}")
    return values[name]
