"""Following a log over connections that break: every character once, and no longer than was said."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from itertools import islice

import pytest
from aiohttp import ClientConnectionError
from ray.job_submission import JobStatus

from deploy import job_log
from deploy.job_client import Unreachable
from deploy.job_log import LogFollower
from orchestrator.errors import RunError

LINES = [f"step {number}\n" for number in range(30)]
RUNNING, ENDED = JobStatus.RUNNING, JobStatus.SUCCEEDED


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOOK_EVERY_S", "ANEW_S"):
        monkeypatch.setattr(job_log, name, 0.001)
    monkeypatch.setattr(job_log, "QUIET_S", 0.05)


class Server:
    """A job whose log grows with each look, behind connections that end after so many pieces."""

    def __init__(
        self, statuses: Sequence[JobStatus | Unreachable], pieces: Sequence[int], *, hangs: bool = False
    ) -> None:
        self._statuses, self._pieces, self._hangs = list(statuses), list(pieces), hangs

    def status(self, submission_id: str) -> JobStatus:
        status = self._statuses.pop(0) if len(self._statuses) > 1 else self._statuses[0]
        if isinstance(status, Unreachable):
            raise status
        return status

    def log(self, submission_id: str) -> str:
        return "".join(LINES)

    async def tail(self, submission_id: str) -> AsyncIterator[str]:
        for line in islice(LINES, self._pieces.pop(0)):
            yield line
        if self._hangs:
            await asyncio.sleep(60)
        raise ClientConnectionError("the head went away")


def followed(server: Server, *, patience_s: float = 5.0, skip: int = 0) -> tuple[str, JobStatus]:
    shown: list[str] = []
    follower = LogFollower(server, "job", shown.append, patience_s=patience_s, skip=skip)
    status = asyncio.run(follower.until_the_end())
    return "".join(shown), status


def test_every_line_is_shown_once_however_often_the_connection_breaks() -> None:
    away = Unreachable("away")
    server = Server([RUNNING, RUNNING, away, away, RUNNING, JobStatus.PENDING, RUNNING, ENDED], [3, 0, 11, 7])
    assert followed(server) == ("".join(LINES), ENDED)


def test_a_connection_that_falls_silent_is_given_up() -> None:
    assert followed(Server([RUNNING, RUNNING, ENDED], [2, 5], hangs=True)) == ("".join(LINES), ENDED)


def test_what_was_shown_before_is_not_shown_again() -> None:
    assert followed(Server([ENDED], []), skip=len("".join(LINES[:28])))[0] == "".join(LINES[28:])


def test_a_cluster_that_stays_away_ends_the_wait_in_one_line() -> None:
    with pytest.raises(RunError, match=r"nothing answers, for 0\.02 s; the job may go on: `paceline status job`"):
        followed(Server([RUNNING, Unreachable("nothing answers")], [1]), patience_s=0.02)
