"""Readings through Ray's own agent to an endpoint, as a real Prometheus takes them."""

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from typing import TypeVar

import pytest
import ray
import yaml

from orchestrator.config import RaySettings
from orchestrator.errors import SettingError
from orchestrator.launch import start_ray
from orchestrator.monitoring import catalogue as of
from orchestrator.monitoring.catalogue import CATALOGUE, RUN_LABELS
from orchestrator.monitoring.dashboard import ROWS
from orchestrator.monitoring.exporter import MOST_SERIES, OTHER, LabelBudget, RayExporter
from orchestrator.monitoring.readings import Reading
from tests.orchestrator.monitoring.scraping import Seen, free_port, known, queried, scrape, values

PROMETHEUS = shutil.which("prometheus")
PATIENCE_S = 90.0
Found = TypeVar("Found")


def test_names_that_a_reward_function_makes_up_are_bounded() -> None:
    budget = LabelBudget(most=3)
    first = [budget.of(Reading(of.REWARD_TERM, 1.0, (f"t{n}",))) for n in range(5)]
    assert first == [("t0",), ("t1",), ("t2",), (OTHER,), (OTHER,)]
    assert budget.of(Reading(of.REWARD_TERM, 1.0, ("t1",))) == ("t1",), "what has a place keeps it"
    assert budget.of(Reading(of.RUNNING, 1.0, ("rollout-0",))) == ("rollout-0",), "each metric has its own"
    assert budget.of(Reading(replace(of.REWARD, name="x"), 1.0)) == ()
    assert MOST_SERIES * len(CATALOGUE) < 10_000


def test_without_ray_nothing_is_shown_and_nothing_fails() -> None:
    exporter = RayExporter(run="r", recipe="q")
    exporter.show(Reading(of.STEP, 1))
    exporter.close()


def test_a_port_that_is_taken_is_one_line_before_ray_starts() -> None:
    port = free_port()
    with subprocess.Popen([sys.executable, "-m", "http.server", str(port)], stderr=subprocess.DEVNULL) as server:
        try:
            eventually(lambda: _answers(port))
            with pytest.raises(SettingError, match=f"ray.metrics_port: port {port} is taken"):
                start_ray(RaySettings(metrics_port=port), cpus=1)
        finally:
            server.kill()
    assert not ray.is_initialized()


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Ray on this machine as a run starts it, without a dashboard."""
    monkeypatch.setenv("RAY_metrics_report_interval_ms", "1000")
    port = free_port()
    start_ray(RaySettings(metrics_port=port, object_store_mb=80), cpus=1)
    yield port
    ray.shutdown()


def one_of_each() -> list[Reading]:
    return [Reading(metric, 0.5, tuple(f"some {label}" for label in metric.labels)) for metric in CATALOGUE]


@pytest.mark.slow
def test_every_query_of_the_dashboard_finds_what_ray_exports(endpoint: int) -> None:
    exporter = RayExporter(run="the-run", recipe="the-recipe")
    for reading in one_of_each():
        exporter.show(reading)
    exporter.show(Reading(of.PROMPTS, 2.0, ("some end",)))
    exporter.show(Reading(of.REWARD_SECONDS, 40.0))

    def complete() -> list[Seen]:
        """As a run does: what may fade is shown again and again."""
        for reading in one_of_each():
            if reading.metric.kind == "gauge" and not reading.metric.lasts:
                exporter.show(reading)
        return _complete(endpoint)

    seen = eventually(complete)
    assert queried() <= {one.name for one in seen} <= known()
    assert {(one.labels["run"], one.labels["recipe"]) for one in seen} == {("the-run", "the-recipe")}
    labels = {metric.series: {*RUN_LABELS, *metric.labels} for metric in CATALOGUE}
    assert all(set(one.labels) == labels[one.name] for one in seen if one.name in labels)
    assert all(one.kind == metric.kind for metric in CATALOGUE for one in seen if one.name == metric.series)
    assert values(seen, of.PROMPTS, end="some end") == [2.5]
    assert values(seen, of.REWARD_SECONDS) == [2]

    # What is read twice a second fades when nobody reads it any more, and so does a loss that is no number.
    exporter.show(Reading(of.LOSS, float("nan")))
    gone = (of.RUNNING, of.LOSS)
    faded = eventually(lambda: [one for one in [scrape(endpoint)] if one and not any(values(one, m) for m in gone)])[0]
    assert values(faded, of.ACCURACY, set="some set") == values(faded, of.GRAD_NORM) == [0.5]
    exporter.close()
    eventually(lambda: [one for one in [scrape(endpoint)] if one and not values(one, of.ACCURACY)])


@pytest.mark.slow
@pytest.mark.skipif(PROMETHEUS is None, reason="prometheus is not installed (Debian: prometheus)")
def test_a_real_prometheus_answers_every_query(endpoint: int, tmp_path: Path) -> None:
    assert PROMETHEUS is not None
    exporter = RayExporter(run="the-run", recipe="the-recipe")
    job = {"job_name": "run", "scrape_interval": "1s", "static_configs": [{"targets": [f"127.0.0.1:{endpoint}"]}]}
    config = {"scrape_configs": [job]}
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    own = free_port()
    command = [PROMETHEUS, f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data"]
    with subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{own}"], stderr=subprocess.DEVNULL) as server:
        try:
            lines = {query.promql for panels in ROWS.values() for panel in panels for query in panel.queries}
            deadline = time.monotonic() + PATIENCE_S
            while lines:  # all of them answer with a line each in the end: a rate needs two values
                assert time.monotonic() < deadline, f"no answer to {lines}"
                for reading in one_of_each():
                    exporter.show(reading)
                time.sleep(1.0)
                lines = {promql for promql in lines if not _result(own, promql)}
        finally:
            server.kill()
    exporter.close()


def _complete(port: int) -> list[Seen]:
    """What is seen once every counter, gauge and histogram has arrived."""
    seen = scrape(port)
    arrived = queried() <= {one.name for one in seen} and values(seen, of.REWARD_SECONDS) == [2]
    return seen if arrived else []


def _answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
        return True
    return False


def _result(port: int, promql: str) -> list[object]:
    """What Prometheus answers to a query of the dashboard; nothing while it has too little, or is starting."""
    asked = promql.replace("$run", ".*").replace("$__rate_interval", "1m").replace("$__range", "1h")
    url = f"http://127.0.0.1:{port}/api/v1/query?" + urllib.parse.urlencode({"query": asked})
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            body = json.load(answer)
    except urllib.error.HTTPError as error:
        if error.code != HTTPStatus.SERVICE_UNAVAILABLE:  # not ready yet
            raise
        return []
    except OSError:
        return []
    assert body["status"] == "success"
    return list(body["data"]["result"])


def eventually(look: Callable[[], Found]) -> Found:
    """What `look` finds once it finds something."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := look()):
        assert time.monotonic() < deadline, "nothing came of it in time"
        time.sleep(0.5)
    return found
