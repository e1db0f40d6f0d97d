"""Addresses that are none, that nobody answers at, or where something else does: one line each, and no secret in it."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from deploy import job_client
from deploy.job_client import LOCAL, JobServer, dashboard_address
from orchestrator.errors import SettingError

SECRET = "planted-5f2c9e"


@pytest.mark.parametrize(
    ("given", "environment", "address"),
    [
        (None, {}, LOCAL),
        ("10.0.0.1:8265", {}, "http://10.0.0.1:8265"),
        ("head", {}, "http://head:8265"),
        ("https://ray.example.org/", {}, "https://ray.example.org"),
        (None, {"RAY_ADDRESS": "http://head:8265"}, "http://head:8265"),
        (None, {"RAY_ADDRESS": "head:6379"}, LOCAL),
        ("http://mine:8265", {"RAY_API_SERVER_ADDRESS": "http://other:8265"}, "http://mine:8265"),
    ],
)
def test_an_address_is_made_whole(given: str | None, environment: dict[str, str], address: str) -> None:
    assert dashboard_address(given, environment) == address


@pytest.mark.parametrize("given", ["ray://head:10001", "http://", "http://head:port", f"http://me:{SECRET}@head:8265"])
def test_what_is_no_dashboard_is_refused(given: str) -> None:
    with pytest.raises(SettingError, match="--address") as caught:
        dashboard_address(given, {})
    assert SECRET not in str(caught.value)


@contextmanager
def answering(status: int, body: str) -> Iterator[str]:
    """A server that says this to whatever it is asked."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (200, "<html>a wiki</html>", "is no Ray dashboard"),
        (200, "{}", "is no Ray dashboard"),
        (404, "nothing", "is no Ray dashboard"),
        (502, "bad gateway", "is no Ray dashboard"),
        (401, "Unauthorized", "wants a token; set RAY_AUTH_MODE=token"),
        (403, "Forbidden", "wants another token"),
    ],
)
def test_what_answers_and_is_no_open_dashboard(
    status: int, body: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", SECRET)
    with answering(status, body) as address, pytest.raises(SettingError, match="--address") as caught:
        JobServer(address)
    assert said in str(caught.value)
    assert SECRET not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nobody_and_somebody_who_never_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(200, "") as address:
        pass
    with pytest.raises(SettingError, match="nothing answers at"):
        JobServer(address)
    monkeypatch.setattr(job_client, "REQUEST_S", 0.2)
    silent = socket.create_server(("127.0.0.1", 0))
    with silent, pytest.raises(SettingError, match=r"nothing answers at .*\(ReadTimeout\)"):
        JobServer(f"http://127.0.0.1:{silent.getsockname()[1]}")


def test_another_ray_is_refused_before_anything_is_sent() -> None:
    with answering(200, '{"version": "4", "ray_version": "2.9.3", "ray_commit": "x"}') as address:
        server = JobServer(address)
        with pytest.raises(SettingError, match=r"the cluster has Ray 2\.9\.3, this machine"):
            server.check_version()
