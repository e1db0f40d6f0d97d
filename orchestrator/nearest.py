"""The nearest valid name, for messages about a wrong one."""

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """``", did you mean X?"`` where a valid name is close, else an empty string."""
    near = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    return f", did you mean {near[0]}?" if near else ""
