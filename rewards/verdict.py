"""What a term may answer beyond a number."""

from collections.abc import Mapping
from dataclasses import dataclass

from rewards.models.asking import ModelFailureKind
from rewards.response import Fact, SpanReward

TermValue = float | Mapping[str, float]
"""One value, or several named ones; a term's weight counts for all of them."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A term's value, with rewards of parts of the text and facts to remember beside it.

    Attributes:
        troubles: what models failed at on the way to the value; counted.
    """

    value: TermValue
    spans: tuple[SpanReward, ...] = ()
    facts: tuple[Fact, ...] = ()
    troubles: tuple[ModelFailureKind, ...] = ()


Answer = TermValue | Verdict
"""What a term may return for one response."""


def as_verdict(answer: Answer) -> Verdict:
    return answer if isinstance(answer, Verdict) else Verdict(answer)
