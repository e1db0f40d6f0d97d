"""The Grafana dashboard of a run, made from the list of metrics: `python -m orchestrator.monitoring.dashboard`.

It prints what `deploy/grafana/paceline.json` holds (a test compares). Pure functions from metrics to queries, from
queries to panels, and from panels to what Grafana imports.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.monitoring import catalogue as of
from orchestrator.monitoring.catalogue import Metric

UID, TITLE = "paceline-run", "Paceline: a run"
RUN = '{run=~"$run"}'
WINDOW = "[$__rate_interval]"
WIDTH, HEIGHT, COLUMNS = 8, 8, 24
"""Of a panel and of the page, in Grafana's grid."""
SCHEMA = 39
"""Version of Grafana's dashboard format; newer servers convert it."""
SOURCE = {"type": "prometheus", "uid": "${source}"}

SHARE, SECONDS, TOKENS, NATS = "percentunit", "s", "short", "short"
"""Units as Grafana calls them."""


@dataclass(frozen=True, slots=True)
class Query:
    """A PromQL expression, and what its lines are called; `{{label}}` is filled in."""

    promql: str
    legend: str


@dataclass(frozen=True, slots=True)
class Panel:
    """Attributes: counts: it shows one number for each line, of all the time shown, in place of a curve."""

    title: str
    unit: str
    queries: tuple[Query, ...]
    counts: bool = False


def now(metric: Metric, legend: str = "") -> Query:
    """What a gauge shows, a line for each value of its labels."""
    labels = " ".join(f"{{{{{label}}}}}" for label in metric.labels)
    return Query(metric.series + RUN, " ".join(filter(None, [legend, labels])) or "{{run}}")


def rate(metric: Metric, *by: str, legend: str = "") -> Query:
    """How fast a counter grows, per second, added up over all labels but these."""
    kept = ("run", *by)
    labels = " ".join(f"{{{{{label}}}}}" for label in by)
    name = " ".join(filter(None, [legend, labels])) or "{{run}}"
    return Query(f"sum by ({', '.join(kept)}) (rate({metric.series}{RUN}{WINDOW}))", name)


def grown(metric: Metric, *by: str) -> Query:
    """What a counter has counted in the time shown."""
    labels = " ".join(f"{{{{{label}}}}}" for label in by)
    return Query(f"sum by ({', '.join(('run', *by))}) (increase({metric.series}{RUN}[$__range]))", labels or "{{run}}")


def quantiles(metric: Metric, *levels: float) -> tuple[Query, ...]:
    """Of what a histogram observed lately."""
    observed = f"sum by (le, run) (rate({metric.series}{RUN}{WINDOW}))"
    return tuple(Query(f"histogram_quantile({level:g}, {observed})", f"p{100 * level:g}") for level in levels)


def ratio(part: Metric, whole: Metric, legend: str) -> Query:
    """What one counter grows by for each that another grows by."""
    return Query(f"{rate(part).promql} / {rate(whole).promql}", legend)


ROWS: dict[str, tuple[Panel, ...]] = {
    "What it learns": (
        Panel("Held-out accuracy", SHARE, (now(of.ACCURACY),)),
        Panel("Reward", "short", (now(of.REWARD, "reward"), now(of.REWARD_TERM))),
        Panel("Steps", "short", (now(of.STEP),)),
        Panel("Length of answers", TOKENS, (now(of.RESPONSE_MEAN, "mean"), now(of.RESPONSE_MAX, "longest"))),
        Panel("Ran out of tokens, late", SHARE, (now(of.TRUNCATED, "cut by length"), now(of.LATE_SHARE, "late"))),
        Panel("Length trained by length sampled", "short", (now(of.LENGTH_RATIO),)),
        Panel("Loss and gradient", "short", (now(of.LOSS, "loss"), now(of.GRAD_NORM, "gradient norm"))),
        Panel("Entropy", NATS, (now(of.ENTROPY),)),
        Panel("Learning rate", "sci", (now(of.LEARNING_RATE),)),
    ),
    "How fast": (
        Panel("Tokens per second", TOKENS, (now(of.TOKENS_PER_S, "a step's"), rate(of.SAMPLED_TOKENS, legend="ended"))),
        Panel("Answers per second", "short", (now(of.SAMPLES_PER_S, "trained"), rate(of.ANSWERS, "finish"))),
        Panel("A step", SECONDS, (now(of.STEP_SECONDS, "whole"), now(of.WAITED_SECONDS, "learner waited"))),
        Panel("Idle, of the whole run", SHARE, (now(of.IDLE),)),
        Panel("The learner's time", SHARE, (rate(of.LEARNER_SECONDS, "doing"),)),
        Panel("An answer's time on engines", SECONDS, quantiles(of.ANSWER_SECONDS, 0.5, 0.9, 0.99)),
    ),
    "Where the work stands": (
        Panel("Answers on engines", "short", (now(of.RUNNING, "runs"), now(of.LIMIT, "may run"))),
        Panel("Answers that wait", "short", (now(of.WAITING, "for an engine"), now(of.TO_SCORE, "for a reward"))),
        Panel(
            "Groups",
            "short",
            (now(of.BUFFERED, "buffered"), now(of.IN_FLIGHT, "in flight"), now(of.ASIDE, "set aside")),
        ),
        Panel("KV cache", SHARE, (now(of.KV_USE),)),
        Panel("Staleness", "short", (now(of.STALENESS_MEAN, "mean"), now(of.STALENESS_MAX, "greatest"))),
        Panel("Prompts by end", "short", (grown(of.PROMPTS, "end"),), counts=True),
    ),
    "Weights": (
        Panel("A sync", SECONDS, quantiles(of.SYNC_SECONDS, 0.5, 0.99)),
        Panel("Sampling paused for it", SECONDS, quantiles(of.PAUSE_SECONDS, 0.5, 0.99)),
        Panel("Syncs by verdict", "short", (grown(of.SYNCS, "stream", "verdict"),), counts=True),
        Panel("Engine and learner apart", NATS, (now(of.PROBE_GAP, "probe"), now(of.ENGINE_GAP, "fresh tokens"))),
        Panel("Version served", "short", (now(of.WEIGHTS_VERSION),)),
    ),
    "Speculation": (
        Panel(
            "Acceptance length",
            TOKENS,
            (now(of.ACCEPTANCE, "where drafted"), now(of.ACCEPTANCE_ALL, "all steps")),
        ),
        Panel("Decoding steps by K", "short", (rate(of.DECODING_STEPS, "k", legend="K"),)),
        Panel("Accepted tokens for each draft", TOKENS, (ratio(of.ACCEPTED, of.DRAFTS, "accepted"),)),
        Panel("Drafter's sessions", "short", (grown(of.DRAFTERS, "outcome"),), counts=True),
    ),
    "What goes wrong": (
        Panel("Rewards that failed", "short", (grown(of.REWARD_FAILURES, "kind", "term"),), counts=True),
        Panel("Terms that got no verdict", "short", (grown(of.REWARD_FALLBACKS, "kind", "term"),), counts=True),
        Panel("Scoring of an answer", SECONDS, quantiles(of.REWARD_SECONDS, 0.5, 0.99)),
        Panel(
            "Workers lost and replaced", "short", (grown(of.LOST, "worker"), grown(of.JOINED, "worker")), counts=True
        ),
        Panel("What the watchdog did", "short", (grown(of.WATCHDOG, "action"),), counts=True),
        Panel("Prompts in quarantine", "short", (grown(of.QUARANTINED),), counts=True),
    ),
}
"""Rows of the page, from top to bottom."""


def dashboard() -> dict[str, object]:
    """What Grafana imports."""
    return {
        "uid": UID,
        "title": TITLE,
        "tags": ["paceline", "ray"],
        "schemaVersion": SCHEMA,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_source(), _runs()]},
        "panels": list(_placed(ROWS)),
    }


def as_json() -> str:
    return json.dumps(dashboard(), indent=1) + "\n"


def _source() -> dict[str, object]:
    return {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}


def _runs() -> dict[str, object]:
    return {
        "name": "run",
        "label": "Run",
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": f"label_values({of.STEP.series}, run)", "refId": "runs"},
        "definition": f"label_values({of.STEP.series}, run)",
        "refresh": 2,
        "sort": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _placed(rows: dict[str, tuple[Panel, ...]]) -> Iterator[dict[str, object]]:
    """All panels, numbered, from left to right and row by row."""
    number = y = 0
    for title, panels in rows.items():
        number += 1
        yield {
            "id": number,
            "type": "row",
            "title": title,
            "collapsed": False,
            "panels": [],
            "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1},
        }
        y += 1
        across = COLUMNS // WIDTH
        for place, panel in enumerate(panels):
            number += 1
            at = {"x": WIDTH * (place % across), "y": y + HEIGHT * (place // across), "w": WIDTH, "h": HEIGHT}
            yield {"id": number, **_panel(panel), "gridPos": at}
        y += HEIGHT * -(-len(panels) // across)


def _panel(panel: Panel) -> dict[str, object]:
    shown: dict[str, object]
    if panel.counts:
        shown = {
            "type": "bargauge",
            "options": {"orientation": "horizontal", "reduceOptions": {"calcs": ["lastNotNull"]}},
        }
    else:
        legend = {"displayMode": "list", "placement": "bottom", "showLegend": True}
        shown = {"type": "timeseries", "options": {"legend": legend, "tooltip": {"mode": "multi"}}}
    return {
        **shown,
        "title": panel.title,
        "datasource": SOURCE,
        "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
        "targets": [_target(chr(ord("A") + n), query, panel.counts) for n, query in enumerate(panel.queries)],
    }


def _target(reference: str, query: Query, instant: bool) -> dict[str, object]:
    asked = {"instant": True, "range": False} if instant else {}
    return {"refId": reference, "datasource": SOURCE, "expr": query.promql, "legendFormat": query.legend, **asked}


if __name__ == "__main__":
    print(as_json(), end="")
