"""Readings as metrics of Ray, which the agent of the driver's node shows to Prometheus.

Ray's agent runs on each node, with or without a dashboard, on a laptop as on a cluster, and answers on one port for all
jobs there; an endpoint of the driver's own would have to be found, opened and told apart for every run.

The agent forgets a gauge that nobody sets for two of its intervals (10 s each, unless `RAY_metrics_report_interval_ms`
says otherwise), and a step may take minutes: what `lasts` is therefore set again and again, by a thread of its own,
since the driver's event loop may have no time for it.
"""

import threading
from collections import defaultdict
from typing import Protocol

import ray
from ray.util.metrics import Counter, Gauge, Histogram

from orchestrator.monitoring.catalogue import PREFIX, RUN_LABELS, Metric
from orchestrator.monitoring.readings import Reading

MOST_SERIES = 64
"""Of one metric in one run."""
OTHER = "other"
REFRESH_S = 1.0
RAYS_OWN = "ray_"
"""Ray puts this before each name."""


class Exporter(Protocol):
    def show(self, reading: Reading) -> None: ...

    def close(self) -> None: ...


class LabelBudget:
    """Keeps the number of series bounded, whatever names a reward function of the user's own comes up with."""

    def __init__(self, most: int = MOST_SERIES) -> None:
        self._most = most
        self._seen: defaultdict[str, set[tuple[str, ...]]] = defaultdict(set)

    def of(self, reading: Reading) -> tuple[str, ...]:
        """The labels under which to show it: `OTHER` for what comes when the metric has its `most`."""
        seen, values = self._seen[reading.metric.name], reading.labels
        if values in seen:
            return values
        if len(seen) == self._most:
            return (OTHER,) * len(values)
        seen.add(values)
        return values


class RayExporter:
    """Args: run, recipe: names, for the labels that every metric has."""

    def __init__(self, *, run: str, recipe: str) -> None:
        self._always = dict(zip(RUN_LABELS, (run, recipe), strict=True))
        self._budget = LabelBudget()
        self._instruments: dict[str, Counter | Gauge | Histogram] = {}
        self._lasting: dict[tuple[str, tuple[str, ...]], tuple[Gauge, float, dict[str, str]]] = {}
        self._closed = threading.Event()
        self._refreshing: threading.Thread | None = None

    def show(self, reading: Reading) -> None:
        """Before Ray has started, and once it has stopped, nobody would see it."""
        if not ray.is_initialized():
            return
        metric, values = reading.metric, self._budget.of(reading)
        tags = {**self._always, **dict(zip(metric.labels, values, strict=True))}
        instrument = self._instruments.get(metric.name) or self._made(metric)
        if isinstance(instrument, Gauge):
            instrument.set(reading.value, tags)
            if metric.lasts:
                self._lasting[metric.name, values] = instrument, reading.value, tags
                self._begin()
        elif isinstance(instrument, Histogram):
            instrument.observe(max(0.0, reading.value), tags)  # two machines' clocks may differ
        elif reading.value > 0:
            instrument.inc(reading.value, tags)

    def close(self) -> None:
        """Let what was shown fade."""
        self._closed.set()
        if self._refreshing is not None:
            self._refreshing.join(2 * REFRESH_S)

    def _made(self, metric: Metric) -> Counter | Gauge | Histogram:
        name, labels = (PREFIX + metric.name).removeprefix(RAYS_OWN), (*RUN_LABELS, *metric.labels)
        made: Counter | Gauge | Histogram
        if metric.kind == "gauge":
            made = Gauge(name, metric.says, labels)
        elif metric.kind == "counter":
            made = Counter(name, metric.says, labels)
        else:
            made = Histogram(name, metric.says, list(metric.bounds), labels)
        self._instruments[metric.name] = made
        return made

    def _begin(self) -> None:
        if self._refreshing is None:
            self._refreshing = threading.Thread(target=self._refresh, name="lasting metrics", daemon=True)
            self._refreshing.start()

    def _refresh(self) -> None:
        while not self._closed.wait(REFRESH_S):
            for gauge, value, tags in list(self._lasting.values()):
                if ray.is_initialized():
                    gauge.set(value, tags)
