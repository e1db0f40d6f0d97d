"""The `countdown` and `random_calculation` terms, and the generator of random calculations."""

import operator
import random
import re
from collections import Counter
from fractions import Fraction

from rewards.extraction import by_marker
from rewards.puzzles.expression import NoExpressionError, value_of
from rewards.puzzles.facts import facts_of, whole_numbers
from rewards.registry import Example, RefusedOptionError, term
from rewards.response import Response

_OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
_VALUE = re.compile(r"[-−]?\d+(?:\.\d+)?(?:\s*/\s*\d+)?")
_NUMBERS = Response("e", "", "<answer>(3 + 5) * 2</answer>", metadata={"numbers": [2, 3, 5], "target": 16})


@term("countdown", example=Example(_NUMBERS, 1.0))
def countdown_reward(
    response: Response, *, marker: str = "<answer></answer>", well_formed: float = 0.0, use_all: bool = True
) -> float:
    """1.0 where the answer is an expression over the given numbers, each used once, that has the target as its value;
    `well_formed` where it uses the numbers rightly and misses the target; 0.0 otherwise (TinyZero's Countdown).

    Args:
        marker: what the expression follows or stands in; what it equals may be written behind it (``= 16``).
        well_formed: 0.1 in TinyZero.
        use_all: every number must be used; otherwise each at most once.

    Raises: ValueError where the data lack ``numbers`` or ``target``.
    """
    facts = facts_of(response)
    numbers, (target,) = whole_numbers(facts, "numbers"), whole_numbers({"target": [facts.get("target")]}, "target")
    marked = by_marker(response.text, marker)
    try:
        value, used = value_of((response.text if marked is None else marked).partition("=")[0])
    except NoExpressionError:
        return 0.0
    given, taken = Counter(map(Fraction, numbers)), Counter(used)
    if not (taken == given if use_all else taken <= given):
        return 0.0
    return 1.0 if value == target else well_formed


@term("random_calculation", example=Example(Response("e", "", "#### 9.5", "10"), 0.725))
def random_calculation_reward(response: Response, *, marker: str = "####") -> float:
    """1 - min(|e|, 1) / 2 - min(|e| / |y|, 1) / 2, e the error and y the true value: RandomCalculation (arXiv
    2507.10532); 0.0 where the answer is no number.

    For y = 0 the relative error of a wrong answer counts as 1.

    Raises: ValueError where the reference is no number.
    """
    marked = by_marker(response.text, marker)
    try:
        right, _ = value_of(response.reference or "")
    except NoExpressionError as error:
        raise ValueError(f"the reference {response.reference!r} is no number: {error}") from error
    return nearness((response.text if marked is None else marked), right)


def nearness(answer: str, right: Fraction) -> float:
    """The continuous reward of an answer against the exact value."""
    written = answer.replace(",", "").strip().rstrip(".")
    if not _VALUE.fullmatch(written):
        return 0.0  # a copy of the question is not its value
    try:
        given, _ = value_of(written)
    except NoExpressionError:
        return 0.0
    error = abs(given - right)
    relative = error / abs(right) if right else Fraction(bool(error))
    return float(1 - min(error, Fraction(1)) / 2 - min(relative, Fraction(1)) / 2)


def random_expression(draw: random.Random, steps: int, low: int, high: int, operators: str) -> tuple[str, Fraction]:
    """An expression of `steps` operations over whole numbers of [low, high], and its exact value.

    Steps join two smaller expressions, so that all shapes occur; a division by zero is drawn again.
    """
    if steps == 0:
        number = draw.randint(low, high)
        return (str(number) if number >= 0 else f"({number})"), Fraction(number)
    while True:
        left = draw.randint(0, steps - 1)
        (first, a), (second, b) = (
            random_expression(draw, part, low, high, operators) for part in (left, steps - 1 - left)
        )
        sign = draw.choice(operators)
        if sign == "/" and b == 0:
            continue
        return f"({first} {sign} {second})", _OPERATIONS[sign](a, b)


def check_operators(operators: str) -> None:
    """Raises: RefusedOptionError."""
    if not operators or set(operators) - set("+-*/"):
        raise RefusedOptionError(f"operators={operators!r} must be some of + - * /")
