"""How long an answer may take: its deadline, which stands still while a call of its stands in line for a model.

A long line is the fault of no answer. Who stands in it moves up, because every call before it is bounded.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar

_PATIENCE: ContextVar["_Patience | None"] = ContextVar("patience", default=None)


class _Patience:
    def __init__(self, limit: asyncio.Timeout) -> None:
        self._limit = limit
        self._in_line = 0
        self._left_s = 0.0

    def stop(self) -> None:
        if self._in_line == 0:
            self._left_s = (self._limit.when() or 0.0) - asyncio.get_running_loop().time()
            self._limit.reschedule(None)
        self._in_line += 1

    def go_on(self) -> None:
        self._in_line -= 1
        if self._in_line == 0:
            with suppress(RuntimeError):  # the answer is over
                self._limit.reschedule(asyncio.get_running_loop().time() + self._left_s)


@asynccontextmanager
async def patience(seconds: float) -> AsyncIterator[None]:
    """Raises: TimeoutError where the block, its waits in line apart, takes longer."""
    async with asyncio.timeout(seconds) as limit:
        before = _PATIENCE.set(_Patience(limit))
        try:
            yield
        finally:
            _PATIENCE.reset(before)


@contextmanager
def in_line() -> Iterator[None]:
    """The time inside is not counted."""
    held = _PATIENCE.get(None)
    if held is None:
        yield
        return
    held.stop()
    try:
        yield
    finally:
        held.go_on()
