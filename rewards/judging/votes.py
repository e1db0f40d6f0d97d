"""Several opinions on one matter: each read by itself, those that say nothing counted and left out."""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from rewards.models.asking import Message, Model, ModelFailed, ModelFailureKind
from rewards.models.quoting import RULE

T = TypeVar("T")
VOTING_TEMPERATURE = 0.7
"""Of several opinions, unless the recipe says otherwise; a single one is greedy."""


def instructed(task: str, *parts: str) -> list[Message]:
    """What a judge is shown: the task with the rule about quotations, and what is quoted."""
    return [Message("system", f"{task}\n\n{RULE}"), Message("user", "\n\n".join(parts))]


def opinions(said: Sequence[str], read: Callable[[str], T]) -> tuple[list[T], tuple[ModelFailureKind, ...]]:
    """What each text says, without those that say nothing, and the kinds of those.

    Raises: ModelFailed where none says anything.
    """
    found: list[T] = []
    troubles: list[ModelFailed] = []
    for text in said:
        try:
            found.append(read(text))
        except ModelFailed as trouble:
            troubles.append(trouble)
    if not found:
        raise troubles[0] if troubles else ModelFailed("malformed", "no reply")
    return found, tuple(trouble.kind for trouble in troubles)


async def asked(
    model: Model,
    shown: Sequence[Message],
    read: Callable[[str], T],
    *,
    votes: int,
    max_tokens: int,
    temperature: float | None,
    seed: int,
) -> tuple[list[T], tuple[ModelFailureKind, ...]]:
    """So many opinions of a model on what it is shown: see `opinions` and `temperature_of`.

    Raises: ModelFailed where none says anything.
    """
    said = await model.generate(
        shown, n=votes, max_tokens=max_tokens, temperature=temperature_of(votes, temperature), seed=seed
    )
    return opinions(said, read)


def temperature_of(votes: int, temperature: float | None) -> float:
    if temperature is not None:
        return temperature
    return VOTING_TEMPERATURE if votes > 1 else 0.0


def check_votes(**options: float) -> None:
    """Raises: ValueError where one of these numbers is below 1."""
    for name, value in options.items():
        if value < 1:
            raise ValueError(f"{name}={value:g} must be at least 1")


def majority(opinions: Iterable[bool]) -> bool:
    """Whether more say yes than no; a tie is no."""
    found = list(opinions)
    return 2 * sum(found) > len(found)
