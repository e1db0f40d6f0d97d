"""Two numbers in memory that a child and its pool share: which term is at work, on which of its responses.

Read when the child is dead or will be killed, so that a failure is the right response's, and can be counted under the
term that caused it. It costs the child a few bytes written for each term, and no message.
"""

import mmap
import os
import struct
import tempfile
from dataclasses import dataclass
from typing import BinaryIO

_MARK = struct.Struct("=IB")
_NONE = 255


@dataclass(frozen=True, slots=True)
class AtWork:
    """`term` is its number, None where none began; `response` its place among those handed to the child."""

    response: int
    term: int | None


def new_mark() -> BinaryIO:
    """An open file without a name, for `TermMark` in a child and `read_mark` in its pool."""
    file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - it lives as long as the child
    clear_mark(file)
    return file


def read_mark(file: BinaryIO) -> AtWork:
    """What began last."""
    response, term = _MARK.unpack(os.pread(file.fileno(), _MARK.size, 0))
    return AtWork(response, None if term == _NONE else term)


def clear_mark(file: BinaryIO) -> None:
    """Nothing is at work: for the pool, before it asks a child that waits."""
    os.pwrite(file.fileno(), _MARK.pack(0, _NONE), 0)


class TermMark:
    """The child's end; of more than 254 terms the last share a number."""

    def __init__(self, fd: int) -> None:
        self._memory = mmap.mmap(fd, _MARK.size)
        self._response = 0

    def response(self, place: int) -> None:
        """The response at this place begins."""
        self._response = place
        _MARK.pack_into(self._memory, 0, place, _NONE)

    def term(self, number: int) -> None:
        """A term begins on it."""
        _MARK.pack_into(self._memory, 0, self._response, min(number, _NONE - 1))
