"""A Ray cluster as its job server shows it: the few requests that Paceline makes, each with a deadline.

Ray's own client sends the token of `RAY_AUTH_MODE=token` with every request; nothing here reads, shows or keeps it.
"""

import logging
import os
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import ray
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from learners.errors import first_line
from orchestrator.errors import PacelineError, RunError, SettingError

REQUEST_S = 30.0
"""Deadline of a request, of an upload for each read of it."""
LOCAL = "http://127.0.0.1:8265"
ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
"""What Ray's client would go by instead of the address that it is given."""
CHATTY = ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk", "ray._private.runtime_env.packaging")
"""Ray's modules that tell of each upload."""
NO_AGENT = "No available agent"
AGENT_S, AGENT_POLL_S = 60.0, 2.0
"""How long a head that has just started may take to run jobs."""
MARK = "paceline"
"""Metadata key of the jobs that Paceline submitted; the value is its version."""


class Unreachable(PacelineError):
    """The cluster gives no answer now; it may later."""


class _Client(JobSubmissionClient):
    """Ray's client, whose requests would otherwise wait for ever on a host that takes no packets."""

    def _do_request(  # type: ignore[no-untyped-def]  # as Ray's
        self, method, endpoint, **options
    ) -> requests.Response:
        return super()._do_request(method, endpoint, **{"timeout": REQUEST_S, **options})

    @property
    def server_version(self) -> str | None:
        """Of Ray on the cluster."""
        return self._server_ray_version


class JobServer:
    """Args:
    address: of the dashboard, such as http://HOST:8265; None is the one that Ray's variables name, or this machine's.

    Raises:
        SettingError: nothing answers there, or it takes us for a stranger.
    """

    def __init__(self, address: str | None) -> None:
        self.address = dashboard_address(address, os.environ)
        for variable in ADDRESS_VARIABLES:
            os.environ.pop(variable, None)
        for chatty in CHATTY:
            logging.getLogger(chatty).setLevel(logging.WARNING)
        try:
            with self._answers():
                self._client = _Client(self.address)
        except Unreachable as error:
            fix = "check host and port, and that the head was started with its dashboard"
            raise SettingError("--address", str(error), fix) from None

    def check_version(self) -> None:
        """Raises: SettingError: the cluster's Ray is another one than ours."""
        there = self._client.server_version
        if there != ray.__version__:
            fix = "install the same on both sides, or submit with --any-version"
            raise SettingError("--address", f"the cluster has Ray {there}, this machine {ray.__version__}", fix)

    def submit(
        self, entrypoint: str, folder: Path, *, submission_id: str, metadata: Mapping[str, str], stop_wait_s: float
    ) -> None:
        """Upload a folder and have the command run in it.

        Args:
            stop_wait_s: between the signal that ends the job and the one that kills it.
        """
        runtime_env = {
            "working_dir": str(folder),
            "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(int(stop_wait_s))},
        }
        deadline = time.monotonic() + AGENT_S
        while True:
            try:
                with self._answers():
                    self._client.submit_job(
                        entrypoint=entrypoint,
                        submission_id=submission_id,
                        runtime_env=runtime_env,
                        metadata=dict(metadata),
                    )
                return
            except RunError as error:
                if NO_AGENT not in error.reason:
                    raise
                if time.monotonic() > deadline:
                    fix = "has another Ray on it the ports of its agent? (ray start --dashboard-agent-listen-port)"
                    raise RunError("the head takes no jobs: its dashboard agent does not run", fix) from None
            time.sleep(AGENT_POLL_S)

    def job(self, submission_id: str) -> JobDetails:
        """Raises: SettingError: there is no such job; Unreachable."""
        with self._answers(submission_id):
            return self._client.get_job_info(submission_id)

    def jobs(self) -> list[JobDetails]:
        """Those that Paceline submitted, the newest first."""
        with self._answers():
            found = [job for job in self._client.list_jobs() if MARK in (job.metadata or {})]
        return sorted(found, key=lambda job: job.start_time or 0, reverse=True)

    def status(self, submission_id: str) -> JobStatus:
        return self.job(submission_id).status

    def stop(self, submission_id: str) -> bool:
        """Ask a job to end. Returns: whether it ran."""
        with self._answers(submission_id):
            return self._client.stop_job(submission_id)

    def log(self, submission_id: str) -> str:
        """All that a job has written so far."""
        with self._answers(submission_id):
            return self._client.get_job_logs(submission_id)

    def tail(self, submission_id: str) -> AsyncIterator[str]:
        """What a job has written and writes, from the beginning; ends with the connection, in whatever way."""
        return self._client.tail_job_logs(submission_id)

    @contextmanager
    def _answers(self, submission_id: str | None = None) -> Iterator[None]:
        """Ray's many ways of saying that a request failed, as ours."""
        try:
            yield
        except AuthenticationError as error:
            fix = "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to the file with the cluster's token"
            wrong = "another token" if "403" in str(error) or "Forbidden" in str(error) else "a token"
            raise SettingError("--address", f"the cluster at {self.address} wants {wrong}", fix) from None
        except (requests.exceptions.JSONDecodeError, requests.exceptions.HTTPError, KeyError):
            raise self._no_dashboard() from None
        except (requests.exceptions.RequestException, ConnectionError) as error:
            reason = type(error).__name__ if isinstance(error, requests.exceptions.Timeout) else "no connection"
            raise Unreachable(f"nothing answers at {self.address} ({reason})") from None
        except (RuntimeError, ValueError) as error:
            said = first_line(error)
            if "404" in said or "does not exist" in said:
                reason = f"{self.address} knows no job {submission_id}"
                unknown = SettingError("JOB", reason, "see `paceline jobs`")
                raise (self._no_dashboard() if submission_id is None else unknown) from None
            raise RunError(f"the cluster refused: {said}", "look at the dashboard's log on its head") from None

    def _no_dashboard(self) -> SettingError:
        reason = f"what answers at {self.address} is no Ray dashboard"
        return SettingError("--address", reason, "give the dashboard's address, http://HOST:8265")


def dashboard_address(given: str | None, environment: Mapping[str, str]) -> str:
    """The address in full.

    Raises:
        SettingError: it is not one of a dashboard.
    """
    named = (environment.get(name) for name in ADDRESS_VARIABLES)
    address = given or next((value for value in named if value and value.startswith("http")), LOCAL)
    address = address if "://" in address else f"http://{address}"
    parts = urlsplit(address)
    fix = f"give the dashboard's address, such as {LOCAL}"
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SettingError("--address", f"{address} is no address of a dashboard", fix)
    if parts.username or parts.password:
        fix = "take them out: tokens go by RAY_AUTH_TOKEN_PATH"
        raise SettingError("--address", "it holds a user or a password", fix)
    try:
        port = parts.port
    except ValueError:
        raise SettingError("--address", "its port is no number", fix) from None
    whole = port is not None or parts.scheme == "https"  # behind a proxy
    return address.rstrip("/") if whole else f"{address.rstrip('/')}:8265"
