"""The dashboard as Grafana would import it, and its queries as Prometheus reads them."""

import json
import re
import shutil
import subprocess
from itertools import combinations
from pathlib import Path

import pytest
import yaml

from orchestrator.monitoring.catalogue import CATALOGUE
from orchestrator.monitoring.dashboard import ROWS, as_json, dashboard
from tests.orchestrator.monitoring.scraping import known, queried

DEPLOY = Path(__file__).parents[3] / "deploy"
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (Debian: prometheus)")


def test_the_file_in_deploy_is_the_one_that_is_made() -> None:
    made = (DEPLOY / "grafana" / "paceline.json").read_text(encoding="utf-8")
    assert made == as_json(), "python -m orchestrator.monitoring.dashboard > deploy/grafana/paceline.json"


def test_every_metric_is_shown_and_nothing_else_is_asked_for() -> None:
    assert queried() <= known()
    assert {metric.series for metric in CATALOGUE} == queried()


def test_panels_have_numbers_of_their_own_and_do_not_overlap() -> None:
    panels = dashboard()["panels"]
    assert isinstance(panels, list)
    assert len({panel["id"] for panel in panels}) == len(panels) == sum(map(len, ROWS.values())) + len(ROWS)
    for one, other in combinations([panel["gridPos"] for panel in panels], 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above
    for panel in panels:
        references = [target["refId"] for target in panel.get("targets", [])]
        assert len(set(references)) == len(references)


def test_names_follow_prometheus_rules() -> None:
    for metric in CATALOGUE:
        assert metric.name.endswith("_total") == (metric.kind == "counter"), metric.name
        assert bool(metric.bounds) == (metric.kind == "histogram"), metric.name
        assert metric.says.endswith("."), metric.name
    assert len({metric.name for metric in CATALOGUE}) == len(CATALOGUE)


def test_the_page_names_what_there_is() -> None:
    page = (DEPLOY.parent / "docs" / "monitoring.md").read_text(encoding="utf-8")
    table = page[page.index("| question") : page.index("A counter appears")]
    named = dict(re.findall(r"`(\w+)(?:\{([^}]*)\})?`", table))
    metrics = {metric.name: metric for metric in CATALOGUE}
    assert len(named) > 30
    assert {name: set(labels.split(", ")) - {""} for name, labels in named.items()} == {
        name: set(metrics[name].labels) for name in named
    }


def promtool(*arguments: str) -> str:
    assert PROMTOOL is not None
    done = subprocess.run([PROMTOOL, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_promtool
def test_prometheus_takes_the_scrape_configuration() -> None:
    promtool("check", "config", "--syntax-only", str(DEPLOY / "prometheus" / "prometheus.yml"))


@needs_promtool
def test_prometheus_can_parse_every_query(tmp_path: Path) -> None:
    queries = [query.promql for panels in ROWS.values() for panel in panels for query in panel.queries]
    plain = [promql.replace("$__rate_interval", "5m").replace("$__range", "1h") for promql in queries]
    rules = [{"record": f"checked:{number}", "expr": promql} for number, promql in enumerate(plain)]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}), encoding="utf-8")
    assert f"{len(rules)} rules found" in promtool("check", "rules", str(file))


def test_the_pod_monitor_asks_kuberays_port_of_every_node() -> None:
    monitor = yaml.safe_load((DEPLOY / "prometheus" / "podmonitor.yaml").read_text(encoding="utf-8"))
    assert (monitor["apiVersion"], monitor["kind"]) == ("monitoring.coreos.com/v1", "PodMonitor")
    assert monitor["spec"]["selector"]["matchLabels"] == {"ray.io/is-ray-node": "yes"}
    assert [end["port"] for end in monitor["spec"]["podMetricsEndpoints"]] == ["metrics"]


def test_the_dashboard_is_json_that_names_its_source_by_variable() -> None:
    text = as_json()
    assert json.loads(text)["templating"]["list"][0]["type"] == "datasource"
    assert "localhost" not in text
