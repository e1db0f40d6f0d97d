"""What is said of a job, and the exit codes that scripts go by."""

import pytest
from ray.job_submission import JobDetails, JobStatus, JobType

from deploy import jobs
from orchestrator.errors import RunError, SettingError


def job(status: JobStatus, code: int | None = None, **metadata: str) -> JobDetails:
    return JobDetails(
        type=JobType.SUBMISSION,
        submission_id="sums-1",
        status=status,
        entrypoint="exec python paceline_job.py",
        start_time=1_000_000,
        end_time=None if status == JobStatus.RUNNING else 1_125_000,
        metadata=metadata,
        driver_exit_code=code,
    )


@pytest.mark.parametrize(
    ("status", "driver", "code"),
    [
        (JobStatus.PENDING, None, 0),
        (JobStatus.RUNNING, None, 0),
        (JobStatus.SUCCEEDED, 0, 0),
        (JobStatus.STOPPED, None, 130),
        (JobStatus.FAILED, 130, 130),
        (JobStatus.FAILED, 2, 2),
        (JobStatus.FAILED, 1, 1),
        (JobStatus.FAILED, -9, 1),
        (JobStatus.FAILED, None, 1),
    ],
)
def test_exit_codes_are_those_of_the_command_itself(status: JobStatus, driver: int | None, code: int) -> None:
    assert jobs.exit_code(job(status, driver)) == code


def test_a_job_is_a_line() -> None:
    running = jobs.described(job(JobStatus.RUNNING, run_dir="/shared/run"), 1_061.0)
    assert running == "sums-1  running    1:01 min  /shared/run"
    assert "2:05 min" in jobs.described(job(JobStatus.SUCCEEDED, 0), 9_999.0)
    assert jobs.last_step("step    1/9  a\nwriting\nstep    2/9  b\nsteps follow\n") == "step    2/9  b"
    assert jobs.last_step("nothing yet\n") is None


def test_a_run_is_found_by_its_job_alone() -> None:
    assert jobs.run_dir_of(job(JobStatus.STOPPED, run_dir="~/runs/x")) == "~/runs/x"
    with pytest.raises(SettingError, match="JOB: sums-1 was not submitted by Paceline"):
        jobs.run_dir_of(job(JobStatus.STOPPED))


class Server:
    """A job that writes a line with each look and ends after so many of them, if it was asked to."""

    def __init__(self, looks: int) -> None:
        self.looks, self.asked, self.written = looks, False, "before\n"

    def job(self, submission_id: str) -> JobDetails:
        if self.asked:
            self.looks -= 1
            self.written += f"line {self.looks}\n"
        return job(JobStatus.STOPPED if self.asked and self.looks <= 0 else JobStatus.RUNNING)

    def log(self, submission_id: str) -> str:
        return self.written

    def stop(self, submission_id: str) -> bool:
        self.asked = True
        return True


def test_stopping_shows_what_the_run_says_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "POLL_S", 0.001)
    shown: list[str] = []
    ended = jobs.stop(Server(3), "sums-1", shown.append, timeout_s=5)  # type: ignore[arg-type]
    assert ended.status == JobStatus.STOPPED
    assert "".join(shown) == "line 2\nline 1\nline 0\n"
    with pytest.raises(RunError, match=r"sums-1 has not ended within 0\.02 s; see `paceline status sums-1`"):
        jobs.stop(Server(10_000), "sums-1", shown.append, timeout_s=0.02)  # type: ignore[arg-type]
