"""The alerting rules: promtool checks and tests them, and each has a runbook."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from hack.dashboard.answers import chosen_values
from hack.testbed.chart import CHART, render
from hack.testbed.controlplane.commands import run
from hack.testbed.tools import PROMTOOL

pytestmark = pytest.mark.usefixtures("tools")

RULES = CHART / "files/rules.yaml"
CASES = Path(__file__).with_name("rules_test.yaml")


def alerts() -> list[dict[str, str]]:
    (group,) = (each for each in yaml.safe_load(RULES.read_text())["groups"] if each["name"] == "kubeballoon")
    found: list[dict[str, str]] = group["rules"]
    return found


def test_promtool_finds_nothing_wrong() -> None:
    run([PROMTOOL.path(), "check", "rules", "--lint=all", "--lint-fatal", RULES], seconds=30)


def test_each_alert_fires_when_it_should_and_not_otherwise() -> None:
    run([PROMTOOL.path(), "test", "rules", CASES], seconds=60)


def test_each_alert_is_tested_both_ways() -> None:
    cases = [case for test in yaml.safe_load(CASES.read_text())["tests"] for case in test.get("alert_rule_test", ())]
    for alert in alerts():
        expected = [bool(case.get("exp_alerts")) for case in cases if case["alertname"] == alert["alert"]]
        assert {True, False} <= set(expected), alert["alert"]


def test_each_alert_has_its_runbook() -> None:
    headings = re.findall(r"^## (\w+)$", (CHART / "RUNBOOKS.md").read_text(), re.MULTILINE)
    assert headings == [alert["alert"] for alert in alerts()]
    (rendered,) = (item for item in render("--set=monitoring.rules.enabled=true") if item["kind"] == "PrometheusRule")
    for rule in (rule for group in rendered["spec"]["groups"] for rule in group["rules"] if "alert" in rule):
        url = rule["annotations"]["runbook_url"]
        assert (
            url
            == f"https://github.com/kubeballoon/kubeballoon/blob/main/charts/kubeballoon/RUNBOOKS.md#{rule['alert'].lower()}"
        )


def test_prometheus_understands_the_dashboard_s_queries(tmp_path: Path) -> None:
    dashboard = json.loads((CHART / "files/dashboard.json").read_text())
    panels = [each for panel in dashboard["panels"] for each in (panel, *panel.get("panels", []))]
    queries = [target["expr"] for panel in panels for target in panel.get("targets", [])]
    assert len(queries) > 10
    variables = {"$__rate_interval": "5m", "$__range": "3h", "$node": ".*", "$namespace": ".*", "$vm": ".*"}
    variables |= chosen_values(dashboard)
    for name, value in variables.items():
        queries = [query.replace(name, value) for query in queries]
    rules = [{"record": f"panel:{number}", "expr": query} for number, query in enumerate(queries)]
    path = tmp_path / "queries.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    run([PROMTOOL.path(), "check", "rules", path], seconds=30)


def test_each_variable_that_the_dashboard_names_is_grafana_s_or_its_own() -> None:
    text = (CHART / "files/dashboard.json").read_text()
    own = {variable["name"] for variable in json.loads(text)["templating"]["list"]}
    named = set(re.findall(r"\$\{?(\w+)", text))
    assert {"node", "price", "window"} <= named
    assert named - own == {"__all", "__rate_interval", "__range"}


def test_each_sum_is_tested() -> None:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    recorded = [rule["record"] for group in groups for rule in group["rules"] if "record" in rule]
    cases = [case for test in yaml.safe_load(CASES.read_text())["tests"] for case in test.get("promql_expr_test", ())]
    assert recorded
    assert [name for name in recorded if not any(name in case["expr"] for case in cases)] == []
