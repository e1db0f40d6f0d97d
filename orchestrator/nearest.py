"""The nearest valid name, for messages about a wrong one."""

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, valid: Iterable[str], *, most: int = 1) -> str:
    """``", did you mean X?"`` where valid names are close (``X or Y``, up to `most`), else an empty string."""
    names = list(valid)
    # A word that some names begin with is nearer to them than to a name that differs by a letter: ppo is no gppo.
    begun = sorted((n for n in names if name and n.startswith(name)), key=len)
    near = (begun + [n for n in difflib.get_close_matches(name, names, n=most, cutoff=0.5) if n not in begun])[:most]
    return f", did you mean {' or '.join(near)}?" if near else ""
