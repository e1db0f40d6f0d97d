"""Arithmetic expressions with exact values: + - * / and brackets over decimal numbers, and nothing else.

Nothing is handed to Python: an answer may be any text. There are no powers, and the length is bounded, so that the
value of an expression of n characters has about n digits.
"""

import re
from collections.abc import Sequence
from fractions import Fraction

LONGEST = 2000
"""Characters of an expression."""
_TOKEN = re.compile(r"\s*(?:(?P<number>\d+(?:\.\d+)?)|(?P<sign>[-+*/()]))")
_SPELLINGS = str.maketrans({"×": "*", "·": "*", "⋅": "*", "÷": "/", "−": "-", "–": "-", "[": "(", "]": ")"})
_DEEPEST = 100


class NoExpressionError(ValueError):
    """The text is no arithmetic expression, or has no value."""


def value_of(text: str) -> tuple[Fraction, list[Fraction]]:
    """The exact value, and the numbers in the order in which they are written.

    Raises: NoExpressionError, also where something is divided by zero.
    """
    tokens = _tokens(text)
    parser = _Parser(tokens)
    try:
        value = parser.sum(0)
    except ZeroDivisionError:
        raise NoExpressionError("a division by zero") from None
    if parser.place != len(tokens):
        raise NoExpressionError(f"{tokens[parser.place]!r} stands where nothing should")
    return value, [Fraction(token) for token in tokens if token[0].isdigit()]


def _tokens(text: str) -> Sequence[str]:
    plain = text.translate(_SPELLINGS).strip()
    if len(plain) > LONGEST:
        raise NoExpressionError(f"{len(plain)} characters are too many")
    tokens, place = [], 0
    while place < len(plain):
        match = _TOKEN.match(plain, place)
        if match is None:
            raise NoExpressionError(f"{plain[place]!r} belongs to no expression")
        tokens.append(match["number"] or match["sign"])
        place = match.end()
    if not tokens:
        raise NoExpressionError("nothing is there")
    return tokens


class _Parser:
    """Recursive descent: a sum of products of signed factors."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self._tokens = tokens
        self.place = 0

    def sum(self, depth: int) -> Fraction:
        value = self._product(depth)
        while (sign := self._take("+", "-")) is not None:
            part = self._product(depth)
            value = value + part if sign == "+" else value - part
        return value

    def _product(self, depth: int) -> Fraction:
        value = self._factor(depth)
        while (sign := self._take("*", "/")) is not None:
            part = self._factor(depth)
            value = value * part if sign == "*" else value / part
        return value

    def _factor(self, depth: int) -> Fraction:
        if depth > _DEEPEST:
            raise NoExpressionError("too many brackets")
        if (sign := self._take("+", "-")) is not None:
            value = self._factor(depth + 1)
            return value if sign == "+" else -value
        if self._take("(") is not None:
            value = self.sum(depth + 1)
            if self._take(")") is None:
                raise NoExpressionError("a bracket is not closed")
            return value
        if self.place < len(self._tokens) and self._tokens[self.place][0].isdigit():
            self.place += 1
            return Fraction(self._tokens[self.place - 1])
        raise NoExpressionError("a number is missing")

    def _take(self, *wanted: str) -> str | None:
        if self.place < len(self._tokens) and self._tokens[self.place] in wanted:
            self.place += 1
            return self._tokens[self.place - 1]
        return None
