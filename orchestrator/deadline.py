"""The one way in which the driver waits for a remote call: with a deadline, and an error that names the call."""

import asyncio
from collections.abc import Awaitable, Sequence
from typing import TypeVar

from orchestrator.errors import PacelineError

T = TypeVar("T")


class DeadlineMissed(PacelineError):
    """A remote call did not answer in time."""

    def __init__(self, what: str, seconds: float) -> None:
        super().__init__(what, seconds)
        self.what, self.seconds = what, seconds

    def __str__(self) -> str:
        return f"{self.what} did not answer within {self.seconds:g} s"


async def within(seconds: float, call: Awaitable[T], what: str) -> T:
    """Await a call (an object reference too) for at most `seconds`.

    Raises:
        DeadlineMissed: names `what` was waited for.
    """
    try:
        return await asyncio.wait_for(call, seconds)
    except TimeoutError as error:
        raise DeadlineMissed(what, seconds) from error


async def all_within(seconds: float, calls: Sequence[Awaitable[T]], what: str) -> list[T]:
    """Await all of these calls, together for at most `seconds`; the first failure ends the wait."""

    async def every() -> list[T]:
        # Awaited here, so that a cancelled gathering is always retrieved: asyncio complains of one that is not.
        return await asyncio.gather(*calls)

    return await within(seconds, every(), what)
