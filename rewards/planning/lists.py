"""The nested lists of words that PDDL is written in. Bounded: a data set's file may be long, but not without an end."""

import re
from collections.abc import Iterator
from typing import TypeAlias

Nested: TypeAlias = "str | list[Nested]"
_WORD = re.compile(r"[()]|[^\s()]+")
_COMMENT = re.compile(r";[^\n]*")
LONGEST = 1_000_000
"""Characters of a domain or problem."""
DEEPEST = 50


class PddlError(ValueError):
    """A domain or problem that cannot be read; one line."""


def read(text: str) -> list[Nested]:
    """The one list that a file holds, in lower case: PDDL does not tell cases apart.

    Raises: PddlError.
    """
    if len(text) > LONGEST:
        raise PddlError(f"{len(text)} characters are more than the {LONGEST} that are read")
    words = (match.group().lower() for match in _WORD.finditer(_COMMENT.sub("", text)))
    if next(words, "") != "(":
        raise PddlError("PDDL begins with a parenthesis")
    found = _list(words, 1)
    if next(words, None) is not None:
        raise PddlError("there is more after the last parenthesis")
    return found


def _list(words: Iterator[str], depth: int) -> list[Nested]:
    if depth > DEEPEST:
        raise PddlError(f"lists are nested deeper than {DEEPEST}")
    found: list[Nested] = []
    for word in words:
        if word == ")":
            return found
        found.append(_list(words, depth + 1) if word == "(" else word)
    raise PddlError("a parenthesis is never closed")


def words_of(nested: Nested, what: str) -> list[str]:
    """A list of words alone. Raises: PddlError that says what it should have been."""
    if isinstance(nested, str) or not all(isinstance(word, str) for word in nested):
        raise PddlError(f"{what} is no list of words: {nested}")
    return [word for word in nested if isinstance(word, str)]
