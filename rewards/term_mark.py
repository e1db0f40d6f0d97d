"""One number in memory that a child and its pool share: which term is at work.

Read when the child is dead or will be killed, so that a failure can be counted under the term that caused it. It costs
the child one byte written for each term, and no message.
"""

import mmap
import os
import tempfile
from typing import BinaryIO

_NONE = 255


def new_mark() -> BinaryIO:
    """An open file without a name, for `TermMark` in a child and `read_mark` in its pool."""
    file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - it lives as long as the child
    file.write(bytes([_NONE]))
    return file


def read_mark(file: BinaryIO) -> int | None:
    """Number of the term that began last; None where none did."""
    (number,) = os.pread(file.fileno(), 1, 0)
    return None if number == _NONE else number


class TermMark:
    """The child's end; of more than 254 terms the last share a number."""

    def __init__(self, fd: int) -> None:
        self._memory = mmap.mmap(fd, 1)

    def set(self, number: int) -> None:
        self._memory[0] = min(number, _NONE - 1)
