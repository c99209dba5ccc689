"""The alert rules for Prometheus and the dashboard for Grafana: valid, tested, and about metrics that exist."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import REGISTRY
from prometheus_client.metrics import MetricWrapperBase

from app.core import metrics
from app.db import deliveries
from app.services import readiness

ROOT = Path(__file__).resolve().parents[1]
PROMETHEUS = ROOT / "deploy" / "prometheus"
DASHBOARD = ROOT / "deploy" / "grafana" / "signalbox.json"
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((PROMETHEUS / "alerts.yml").read_text("utf-8"))["groups"]
    for rule in group["rules"]
]
CASES: list[dict[str, Any]] = yaml.safe_load((PROMETHEUS / "alerts_test.yml").read_text("utf-8"))["tests"]
MONITORING = (ROOT / "docs" / "monitoring.md").read_text("utf-8")
# Prometheus' own.
OWN = {"up"}


def _series() -> dict[str, set[str]]:
    """The names under which Prometheus stores our metrics, with their labels."""
    found: dict[str, set[str]] = {name: {"instance", "job"} for name in OWN}
    for value in vars(metrics).values():
        if isinstance(value, MetricWrapperBase):
            family = value.describe()[0]
            suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
            for suffix in suffixes:
                found[family.name + suffix] = {*value._labelnames, "instance", "job", "le"}
    return found


def _targets(panels: list[dict[str, Any]]) -> Iterator[str]:
    for panel in panels:
        yield from (target["expr"] for target in panel.get("targets", []))
        yield from _targets(panel.get("panels", []))


EXPRESSIONS = [rule["expr"] for rule in RULES] + list(_targets(json.loads(DASHBOARD.read_text("utf-8"))["panels"]))


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_each_expression_names_metrics_and_labels_that_exist(expression: str) -> None:
    series = _series()
    selectors = re.findall(r"(signalbox_\w+|\bup\b)(?:\{([^}]*)\})?", expression)
    assert selectors
    for name, matchers in selectors:
        assert name in series
        assert set(re.findall(r'(\w+)=~?"', matchers)) <= series[name]
    known = set.union(*(series[name] for name, _ in selectors))
    for labels in re.findall(r"\bby \(([^)]*)\)", expression):
        assert {label.strip() for label in labels.split(",")} <= known


def test_the_first_delivery_of_each_result_is_counted_from_zero() -> None:
    results = (deliveries.ACCEPTED, deliveries.DUPLICATE, deliveries.PARTLY, deliveries.UNMAPPED, deliveries.UNVERIFIED)
    values = [REGISTRY.get_sample_value("signalbox_deliveries_total", {"result": result}) for result in results]
    assert None not in values


def test_the_dashboard_shows_every_metric() -> None:
    shown = set(re.findall(r"signalbox_\w+?(?=_bucket|_count|_sum|\b)", DASHBOARD.read_text("utf-8")))
    names = {re.sub("_(bucket|count|sum|created)$", "", name) for name in _series() if name not in OWN}
    assert names - shown == set()


def test_each_check_of_readyz_has_an_alert() -> None:
    checked = {name for rule in RULES for name in re.findall(r'check="(\w+)"', rule["expr"])}
    # A queue that is late has an alert of its own, by kind.
    assert checked == {*readiness.NAMES} - {"jobs"}
    assert any("signalbox_oldest_due_job_seconds" in rule["expr"] for rule in RULES)


def test_each_alert_has_a_case_and_is_documented() -> None:
    alerts = {rule["alert"] for rule in RULES}
    assert {case["name"] for case in CASES} == alerts
    assert set(re.findall(r"^\| `(Signalbox\w+)` \|", MONITORING, re.MULTILINE)) == alerts


def test_each_case_fires_its_alert_after_it_did_not() -> None:
    for case in CASES:
        expected = [bool(test["exp_alerts"]) for test in case["alert_rule_test"]]
        assert expected == [False, True], case["name"]


def _promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("promtool")
    assert program is not None, "promtool is not installed; this test needs it (apt install prometheus)"
    return subprocess.run(
        [program, *arguments], cwd=PROMETHEUS, capture_output=True, text=True, check=False, timeout=120
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "rules", "alerts.yml"),
        ("check", "config", "--syntax-only", "prometheus.yml"),
        ("test", "rules", "alerts_test.yml"),
    ],
    ids=["rules", "config", "cases"],
)
def test_promtool_finds_nothing_wrong(arguments: tuple[str, ...]) -> None:
    done = _promtool(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_parses_each_expression_of_the_dashboard(tmp_path: Path) -> None:
    rules = [{"record": f"signalbox:panel_{number}", "expr": expr} for number, expr in enumerate(EXPRESSIONS)]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = _promtool("check", "rules", str(file))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_has_panels_of_its_own_and_no_fixed_data_source() -> None:
    dashboard = json.loads(DASHBOARD.read_text("utf-8"))
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert {panel["datasource"]["uid"] for panel in panels if "datasource" in panel} == {"${datasource}"}
    assert [variable["name"] for variable in dashboard["templating"]["list"]] == ["datasource"]


def test_each_metric_is_in_the_dashboard_or_an_alert() -> None:
    used = " ".join(EXPRESSIONS)
    unused = [
        family.name
        for value in vars(metrics).values()
        if isinstance(value, MetricWrapperBase) and (family := value.describe()[0]).name not in used
    ]
    assert unused == []
