"""Room for the frames of deep recursion.

CPython keeps the frames of Python functions in chunks of 16 KiB: a call that does not fit maps the next one, and its
return unmaps it. A parser that recurses around such a border, as those of LaTeX do, maps and faults in memory for each
call: an eighth of the time of verifying an answer. A chunk is as large as the frame that asks for it needs, rounded up
to a power of two, so a frame that claims much leaves those above it much room; nothing claimed is touched.
"""

from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

_SLOTS = (1 << 17) + 1
"""Of 8 bytes: more than fit into a chunk of 1 MiB, so that it has 2 MiB, nearly half of which is left for the calls."""


def with_room(work: Callable[[], Result]) -> Result:
    """What `work` returns; its calls and theirs share one chunk, some thousand deep."""
    return work()


with_room.__code__ = with_room.__code__.replace(co_stacksize=_SLOTS)
