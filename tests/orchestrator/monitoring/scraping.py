"""Reads a metrics endpoint as Prometheus does, with its own client's parser."""

import re
import socket
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from orchestrator.monitoring.catalogue import CATALOGUE, PREFIX, Metric
from orchestrator.monitoring.dashboard import ROWS

TIMEOUT_S = 10.0
RAYS_LABELS = {"Component", "NodeAddress", "SessionName", "Version", "WorkerId", "JobId", "le"}
OURS = re.compile(rf"\b{PREFIX}\w+")


@dataclass(frozen=True, slots=True)
class Seen:
    """A sample of an endpoint; `labels` are those that the list of metrics names."""

    name: str
    kind: str
    labels: dict[str, str]
    value: float


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def scrape(port: int) -> list[Seen]:
    """The project's own samples at this port now; none where nobody answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=TIMEOUT_S) as answer:
            text = answer.read().decode()
    except OSError:
        return []
    return [
        Seen(sample.name, family.type, _ours(sample.labels), sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith(PREFIX)
    ]


def values(seen: Iterable[Seen], metric: Metric, **labels: str) -> list[float]:
    """Of the samples of a metric with these labels; of a histogram, its count."""
    name = PREFIX + metric.name + ("_count" if metric.kind == "histogram" else "")
    return [one.value for one in seen if one.name == name and labels.items() <= one.labels.items()]


def queried() -> set[str]:
    """Every name that a query of the dashboard asks for."""
    queries = [query.promql for panels in ROWS.values() for panel in panels for query in panel.queries]
    return {name for promql in queries for name in OURS.findall(promql)}


def known() -> set[str]:
    """Every name that the list of metrics can lead to."""
    parts = ("_bucket", "_count", "_sum")
    plain = {metric.series for metric in CATALOGUE}
    return plain | {PREFIX + metric.name + part for metric in CATALOGUE if metric.kind == "histogram" for part in parts}


def _ours(labels: dict[str, str]) -> dict[str, str]:
    return {k: v for k, v in labels.items() if k not in RAYS_LABELS and not k.startswith("otel_scope")}
