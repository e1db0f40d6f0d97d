"""The `multiple_choice` term: one letter out of a few."""

import re
import unicodedata

from rewards.extraction import last_line, stated_answer
from rewards.registry import Example, RefusedOptionError, term
from rewards.response import Response

_DRESS = re.compile(r"\\(?:text|textbf|mathrm|mathbf|boxed)\b|[*_$`{}\\]")
_SINGLE = r"(?<![A-Za-z0-9']){letter}(?![A-Za-z0-9'])"


@term("multiple_choice", example=Example(Response("e", "", r"Hence \boxed{\text{(B)}}.", "B"), 1.0))
def multiple_choice_reward(response: Response, *, letters: str = "ABCDE") -> float:
    r"""1.0 where the chosen letter is the reference's, 0.0 otherwise.

    The choice is the letter that opens the first found of: the last ``\boxed{}``; the last ``<answer></answer>``; the
    line after the last ``####``; what follows the last "answer:" or "answer is"; and else, unless the answer was cut
    off, the only letter that stands alone in the last line. Two letters at once are no choice.

    Raises: ValueError where the reference names no letter.
    """
    if not letters.isalpha() or len(set(letters.upper())) != len(letters):
        raise RefusedOptionError(f"letters={letters!r} must be different letters")
    right = None if response.reference is None else _opening(response.reference, letters)
    if right is None:
        raise ValueError(f"the reference {response.reference!r} is none of the letters {letters}")
    return float(_choice(response, letters.upper()) == right)


def _choice(response: Response, letters: str) -> str | None:
    stated = stated_answer(response.text)
    if stated is not None:
        return _opening(stated, letters)
    line = None if response.truncated else last_line(response.text)
    alone = set() if line is None else _alone(line, letters)
    return alone.pop() if len(alone) == 1 else None


def _opening(answer: str, letters: str) -> str | None:
    """The letter that an answer opens with: `B`, `(B)`, `B. because`, but neither `Because` nor `A or B`."""
    bare = _DRESS.sub(" ", unicodedata.normalize("NFKC", answer)).strip()
    match = re.match(rf"(?:option|choice)?\s*[(\[]?\s*([{letters}{letters.lower()}])\s*(?:[)\].:,]|-\s|$)", bare, re.I)
    if match is None:
        return None
    rest = bare[match.end() :]
    others = _alone(rest, letters) if len(rest) <= _SHORT else set()
    return None if others - {match[1].upper()} else match[1].upper()


_SHORT = 12
"""Characters behind a letter in which another one means that both were chosen; further on it is an explanation."""


def _alone(line: str, letters: str) -> set[str]:
    plain = _DRESS.sub(" ", unicodedata.normalize("NFKC", line))
    return {letter for letter in letters if re.search(_SINGLE.format(letter=letter), plain)}
