"""One task beside the caller, such as the delivery of weights beside the next training step.

Invariants: at most one task runs at a time; its error is raised by the next `start` or `wait`; nothing outlives the
`async with` block, whose end cancels what still runs.
"""

import asyncio
from collections.abc import Coroutine
from types import TracebackType
from typing import Self


class Background:
    """Use as `async with Background() as beside`."""

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None

    async def start(self, work: Coroutine[None, None, None]) -> None:
        """Wait for the task before, then start this one."""
        await self.wait()
        self._task = asyncio.create_task(work)

    async def wait(self) -> None:
        """Until the running task has ended, if there is one. Raises what it raised."""
        if self._task is not None:
            await self._task

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
