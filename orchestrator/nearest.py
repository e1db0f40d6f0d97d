"""The nearest valid name, for messages about a wrong one."""

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, valid: Iterable[str], *, most: int = 1) -> str:
    """``", did you mean X?"`` where valid names are close (``X or Y``, up to `most`), else an empty string."""
    near = difflib.get_close_matches(name, list(valid), n=most, cutoff=0.5)
    return f", did you mean {' or '.join(near)}?" if near else ""
