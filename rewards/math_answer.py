r"""The `math` term: is the final answer mathematically equal to the reference?

Plain numbers ("1,234", "$72.50", "-3/4") are compared here, exactly. Everything else goes through math-verify
(https://github.com/huggingface/Math-Verify), which parses LaTeX and compares in sympy. An answer may ask sympy for a
number with a billion digits: nothing here guards against that; the deadline and the memory limit of the child process
that scores are the guard, and math-verify's own alarm, which such a computation would ignore, is switched off.
"""

import functools
import logging
import re
from fractions import Fraction
from typing import TypeAlias

from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

from rewards.extraction import after_last, first_line, last_boxed, last_line, stated_answer
from rewards.math_notation import rewritten, scale_words
from rewards.registry import Example, term
from rewards.response import Response

Parsed: TypeAlias = tuple[object, ...]
"""What math-verify makes of an answer: sympy expressions, and the text as the last resort."""

# It warns once that its alarm is off; that is on purpose.
logging.getLogger("math_verify").setLevel(logging.ERROR)

_LONGEST_ANSWER = 1000
"""Characters of a final answer; a longer one is no answer to a math problem and would only burn the deadline."""
_PLAIN = re.compile(
    r"(?P<sign>[-+]?)\s*(?:\\?\$|[€£¥])?\s*"
    r"(?P<whole>\d{1,3}(?:(?:,|\\,|\{,\})\d{3})+|\d+)?(?P<fraction>\.\d+)?(?:\s*/\s*(?P<below>\d+))?\.?",
    re.ASCII,
)
_UNIT = re.compile(r"(?<=[\d.])(?:\s+(?!percent|hundred|thousand|[mb]illion|trillion|dozen)[A-Za-z]{3,}){1,5}\.?$")
"""What is counted ("72 clips"): words behind a number, but not short ones (variables) or those that scale it."""
_LAST_NUMBER = re.compile(r"(?<![\w.])-?\$?(?:\d[\d,]*\d|\d)(?:\.\d+)?(?:/\d+)?%?")
_EXTRACTION = (LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig())


@term("math", example=Example(Response("example", "", r"\boxed{x^2 + \frac{1}{2}}", r"\frac{1}{2} + x^2"), 1.0))
def math_reward(response: Response) -> float:
    r"""1.0 where the answer equals the reference, 0.0 otherwise.

    The answer is the first found of: the last ``\boxed{}``; the line after the last ``####``; what the last
    ``<answer>`` tags hold; what follows the last "answer:" or "answer is"; the last formula or number of the last line.
    The last of these is a guess, so it is not made for an answer that was cut off in the middle, or in the middle of a
    box.

    Raises: ValueError where the response has no reference.
    """
    if response.reference is None:
        raise ValueError("the prompt has no reference; set data.answer_column")
    answer = _final_answer(response.text, guess=not response.truncated and r"\boxed{" not in response.text)
    if answer is None or len(answer) > _LONGEST_ANSWER:
        return 0.0
    reference = _reference(response.reference)
    if scale_words(reference) != scale_words(answer):
        return 0.0  # math-verify reads 12 million as 12
    return float(_equal(rewritten(reference), rewritten(answer)))


def _final_answer(text: str, *, guess: bool) -> str | None:
    stated = stated_answer(text)
    if stated is not None:
        return stated
    line = last_line(text) if guess else None
    return None if line is None else _guessed_from(line)


def _guessed_from(line: str) -> str | None:
    """A formula between dollar signs, else the last number of the line."""
    formulas = re.findall(r"(?<!\\)\$([^$]+)(?<!\\)\$", line[-_LONGEST_ANSWER:])
    numbers = _LAST_NUMBER.findall(line[-_LONGEST_ANSWER:])
    if formulas and not _is_money(formulas[-1]):
        return str(formulas[-1])
    return str(numbers[-1]) if numbers else None


def _is_money(between_dollars: str) -> bool:
    """Two prices in a line look like a formula: "$5 and then $7" has " and then " words between its signs."""
    return re.search(r"(?<!\\)\b[a-z]{3,}\b", between_dollars) is not None


def _reference(reference: str) -> str:
    boxed = last_boxed(reference)
    if boxed is not None:
        return boxed
    marked = after_last(reference, "####")
    return (first_line(marked) or "" if marked is not None else reference).strip()


def same_answer(one: str, other: str) -> bool:
    """Whether two final answers are mathematically equal, or the same text where they are no mathematics."""
    if one.strip() == other.strip():
        return True
    if scale_words(one) != scale_words(other):
        return False
    try:
        return _equal(rewritten(one), rewritten(other))
    except ValueError:  # it is no mathematics
        return False


def _equal(reference: str, answer: str) -> bool:
    expected, given = _plain_number(reference), _plain_number(answer)
    if expected is not None and given is not None:
        return expected == given
    gold = _parsed_reference(reference)
    if not gold:
        raise ValueError(f"the reference {reference[:60]!r} is not a mathematical expression")
    return bool(verify(list(gold), list(_parse(answer)), timeout_seconds=None))


def _plain_number(text: str) -> Fraction | None:
    """The exact value of a number written with digits alone, None for anything else."""
    match = _PLAIN.fullmatch(_UNIT.sub("", text.strip().strip("*").strip("$").strip()))
    if match is None or not (match["whole"] or match["fraction"]):
        return None
    whole = re.sub(r"\D", "", match["whole"] or "0")
    below = int(match["below"] or 1)
    if below == 0:
        return None
    value = Fraction(f"{whole}{match['fraction'] or ''}") / below
    return -value if match["sign"] == "-" else value


@functools.lru_cache(maxsize=4096)
def _parsed_reference(reference: str) -> Parsed:
    """A group's answers share their reference, so it is parsed once."""
    return _parse(reference)


def _parse(answer: str) -> Parsed:
    """As the content of a box where that is LaTeX, else as text with a number or an expression in it."""
    answer = answer.removesuffix(".")
    boxed = tuple(parse(rf"\boxed{{{answer}}}", extraction_config=_EXTRACTION, parsing_timeout=None))
    return boxed or tuple(parse(answer, extraction_config=_EXTRACTION, parsing_timeout=None))
