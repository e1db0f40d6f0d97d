"""Worked solutions of chain sums ("7 + 3 - 5"), written in styles of different length.

What the starter model is warmed up on: it learns that an answer may be a bare guess, one line per operation, or a
full account of what is left before each operation. Reinforcement learning then finds out which of them pays.

Pure functions. Every solution that is returned ends with the right answer after `MARKER`, whatever its style.
"""

import re
from dataclasses import dataclass
from enum import StrEnum

MARKER = "#### "
"""What stands before the final answer, as in GSM8K (arXiv 2110.14168)."""

_CHAIN = re.compile(r"-?\d+(?: [+-] -?\d+)*")
_STEP = re.compile(r" ([+-]) (-?\d+)")


class Style(StrEnum):
    """How much is written down, for n terms."""

    GUESS = "guess"
    """The answer alone: constant length."""
    RUNNING = "running"
    """One line per operation with its running total: length grows with n."""
    REWRITE = "rewrite"
    """Before each operation, all that is left is written out again: length grows with the square of n."""


@dataclass(frozen=True, slots=True)
class ChainSum:
    """A first value and the signed values that follow it, each with its operator."""

    first: int
    steps: tuple[tuple[str, int], ...]

    @property
    def expression(self) -> str:
        return f"{self.first}" + "".join(f" {operator} {value}" for operator, value in self.steps)

    @property
    def total(self) -> int:
        return self.first + sum(value if operator == "+" else -value for operator, value in self.steps)


def parse_chain_sum(expression: str) -> ChainSum:
    """Read "7 + 3 - 5", as reasoning-gym's `chain_sum` states it in ``metadata["expression"]``.

    Raises:
        ValueError: the text is not a chain of integers joined by " + " and " - ".
    """
    if not _CHAIN.fullmatch(expression):
        raise ValueError(f"not a chain of sums: {expression!r}")
    first, _, _ = expression.partition(" ")
    return ChainSum(int(first), tuple((sign, int(value)) for sign, value in _STEP.findall(expression)))


def solve(problem: ChainSum, style: Style) -> str:
    """A correct solution in the given style; its last line is `MARKER` and the answer."""
    lines: list[str] = []
    total = problem.first
    for done, (operator, value) in enumerate(problem.steps if style is not Style.GUESS else ()):
        if style is Style.REWRITE:
            lines.append(ChainSum(total, problem.steps[done:]).expression)
        operation = ChainSum(total, ((operator, value),))
        total = operation.total
        lines.append(f"{operation.expression} = {total}")
    return "\n".join([*lines, f"{MARKER}{problem.total}"])


def style_of(text: str) -> Style | None:
    """The style that an answer opens in, right or wrong; None where it is none of them."""
    opening, _, rest = text.partition("\n")
    if opening.startswith(MARKER):
        return Style.GUESS
    if re.fullmatch(r"-?\d+ [+-] -?\d+ = -?\d+", opening):
        return Style.RUNNING
    return Style.REWRITE if rest and _CHAIN.fullmatch(opening) else None
