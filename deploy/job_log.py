"""Following what a job writes until it ends, over connections that break.

Invariants: each line is shown once, in order, however often the connection is made anew (the cluster sends the log from
its beginning each time); a cluster that does not answer is waited for as long as the caller says, and no longer.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Protocol

from aiohttp import ClientError
from ray.job_submission import JobStatus

from deploy.job_client import Unreachable
from orchestrator.errors import RunError

LOOK_EVERY_S = 1.0
QUIET_S = 20.0
"""So long without a word, the job is looked at: it may have ended, or the connection be dead."""
ANEW_S = 3.0
"""Between two connections."""


class Followed(Protocol):
    """`deploy.job_client.JobServer`."""

    def status(self, submission_id: str) -> JobStatus: ...

    def log(self, submission_id: str) -> str: ...

    def tail(self, submission_id: str) -> AsyncIterator[str]: ...


class LogFollower:
    """Args:
    show: is given each piece of the log, as it was written.
    patience_s: how long the cluster may be out of reach.
    skip: characters of the log that need not be shown.
    """

    def __init__(
        self, server: Followed, submission_id: str, show: Callable[[str], None], *, patience_s: float, skip: int = 0
    ) -> None:
        self._server, self._id, self._show = server, submission_id, show
        self._patience_s, self._shown = patience_s, skip
        self._heard = time.monotonic()

    async def until_the_end(self) -> JobStatus:
        """Show everything; returns how the job ended.

        Raises:
            RunError: the cluster was out of reach for too long; the job may go on.
        """
        while True:
            try:
                status = await asyncio.to_thread(self._server.status, self._id)
                self._heard = time.monotonic()
                if status.is_terminal():
                    self._catch_up(await asyncio.to_thread(self._server.log, self._id))
                    return status
                if status == JobStatus.RUNNING:
                    await self._follow()
                await asyncio.sleep(LOOK_EVERY_S)
            except Unreachable as error:
                if time.monotonic() - self._heard > self._patience_s:
                    fix = f"the job may go on: `paceline status {self._id}`"
                    raise RunError(f"{error}, for {self._patience_s:g} s", fix) from None
                await asyncio.sleep(ANEW_S)

    async def _follow(self) -> None:
        """One connection, until it ends or falls silent."""
        at = 0
        pieces = self._server.tail(self._id)
        with contextlib.suppress(TimeoutError, ClientError, OSError, RuntimeError, StopAsyncIteration):
            while True:
                piece = await asyncio.wait_for(anext(pieces), QUIET_S)
                at += len(piece)
                if at > self._shown:
                    self._show(piece[self._shown - at :])
                    self._shown = at

    def _catch_up(self, log: str) -> None:
        """What the connections have not brought."""
        if len(log) > self._shown:
            self._show(log[self._shown :])
            self._shown = len(log)
