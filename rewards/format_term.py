"""The `format` term: does the answer have the asked shape?"""

import functools
import re

from rewards.registry import term
from rewards.response import Response


@term("format")
def format_reward(response: Response, *, pattern: str) -> float:
    """1.0 where the whole text, outer whitespace aside, matches the regular expression; 0.0 otherwise.

    The dot matches line ends, so ``<think>.*</think>.*`` spans a chain of thought. A pattern that backtracks without
    end costs the sample its deadline and no more.

    Raises: ValueError where the pattern is no regular expression.
    """
    return float(_compiled(pattern).fullmatch(response.text.strip()) is not None)


@functools.cache
def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern, re.DOTALL)
    except re.error as error:
        raise ValueError(f"pattern {pattern!r} is not a regular expression: {error}") from error
