"""Regular expressions that a recipe names."""

import functools
import re

from rewards.registry import RefusedOptionError


@functools.cache
def compiled(pattern: str) -> re.Pattern[str]:
    """The dot matches line ends too. Raises: RefusedOptionError where it is no regular expression."""
    try:
        return re.compile(pattern, re.DOTALL)
    except re.error as error:
        raise RefusedOptionError(f"pattern {pattern!r} is not a regular expression: {error}") from error
