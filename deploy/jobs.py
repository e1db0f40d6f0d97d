"""What may be done with a job that was submitted: follow it, look at it, end it.

A job knows nothing of the machine that it was submitted from: it goes on when we leave, and whoever reaches the
dashboard may follow or stop it.
"""

import asyncio
import time
from collections.abc import Callable

from ray.job_submission import JobDetails, JobStatus

from deploy.job_client import JobServer
from deploy.job_log import LogFollower
from orchestrator.errors import RunError, SettingError

INTERRUPTED, FAILED, INPUT = 130, 1, 2
POLL_S = 1.0
RUN_DIR = "run_dir"
"""Metadata key of where a job's run is."""

Say = Callable[[str], None]


def follow(server: JobServer, submission_id: str, show: Say, *, patience_s: float, skip: int = 0) -> int:
    """Show what a job writes until it ends. Returns: the exit code of the command that followed it."""
    follower = LogFollower(server, submission_id, show, patience_s=patience_s, skip=skip)
    asyncio.run(follower.until_the_end())
    return exit_code(server.job(submission_id))


def stop(server: JobServer, submission_id: str, show: Say, *, timeout_s: float) -> JobDetails:
    """Have a job end behind a last checkpoint, and show what it says meanwhile.

    Args:
        timeout_s: how long that may take; the cluster kills the job before, at the time that was set at its submission.

    Raises:
        RunError: it has not ended by then.
    """
    job = server.job(submission_id)
    if job.status.is_terminal():
        return job
    said = len(server.log(submission_id))
    server.stop(submission_id)
    deadline = time.monotonic() + timeout_s
    while not (job := server.job(submission_id)).status.is_terminal():
        if time.monotonic() > deadline:
            reason = f"{submission_id} has not ended within {timeout_s:g} s"
            raise RunError(reason, f"see `paceline status {submission_id}`, or raise --timeout")
        said = _shown(server.log(submission_id), said, show)
        time.sleep(POLL_S)
    _shown(server.log(submission_id), said, show)
    return job


def exit_code(job: JobDetails) -> int:
    """As if the run had been started by the command itself; 0 as long as it goes on."""
    if job.status == JobStatus.STOPPED:
        return INTERRUPTED
    if job.status == JobStatus.FAILED:
        return job.driver_exit_code if job.driver_exit_code in (INPUT, INTERRUPTED) else FAILED
    return 0


def run_dir_of(job: JobDetails) -> str:
    """Where the run of a job is on its cluster.

    Raises:
        SettingError: it is no job of ours.
    """
    run_dir = (job.metadata or {}).get(RUN_DIR)
    if run_dir is None:
        raise SettingError("JOB", f"{job.submission_id} was not submitted by Paceline", "see `paceline jobs`")
    return run_dir


def last_step(log: str) -> str | None:
    """The newest line of a log about a step."""
    return next((line for line in reversed(log.splitlines()) if line.startswith("step ")), None)


def described(job: JobDetails, now_s: float) -> str:
    """A job in one line."""
    began = (job.start_time or 0) / 1000
    ended = job.end_time / 1000 if job.end_time else now_s
    minutes, seconds = divmod(max(0, round(ended - began)), 60)
    run_dir = (job.metadata or {}).get(RUN_DIR, "")
    return f"{job.submission_id}  {job.status.value.lower():<9}  {minutes}:{seconds:02d} min  {run_dir}"


def _shown(log: str, said: int, show: Say) -> int:
    if len(log) > said:
        show(log[said:])
    return max(said, len(log))
