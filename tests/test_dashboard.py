"""What the picture of the dashboard is drawn of: the metrics of a model cluster, and the answers to its queries."""

from __future__ import annotations

import json
import re
from typing import Any

from hack.dashboard.answers import Span, chosen_values, panel_answers
from hack.dashboard.model_cluster import STEP_SECONDS, ModelCluster
from hack.testbed.chart import CHART
from hack.testbed.prometheus import Prometheus

DASHBOARD = json.loads((CHART / "files/dashboard.json").read_text())


class Recorder(Prometheus):
    """A Recorder answers each query with one series, and remembers the queries."""

    def __init__(self) -> None:
        self.queries: list[tuple[str, dict[str, Any]]] = []

    def query(self, what: str, **parameters: Any) -> Any:
        """Return a series of two values, of which the second is none."""
        self.queries.append((what, parameters))
        labels, values = {"node": "worker-1"}, [[60.0, "1"], [120.0, "NaN"]]
        shape = {"value": values[0]} if what == "query" else {"values": values}
        return {"result": [{"metric": labels, **shape}]}


def panels(*targets: dict[str, Any]) -> dict[str, Any]:
    return {"panels": [{"id": 7, "targets": list(targets)}, {"id": 8}], "templating": DASHBOARD["templating"]}


def test_a_model_cluster_exports_what_agents_and_the_controller_export_at_each_step() -> None:
    metrics = ModelCluster(2 * STEP_SECONDS, 1000.0, nodes=2, vms=3).metrics()
    assert metrics.endswith("\n# EOF\n")
    demands = re.findall(r"^kubeballoon_vm_demand_bytes\{(.*)\} \S+ (\d+)$", metrics, re.MULTILINE)
    assert len(demands) == 2 * 2 * 3
    assert {moment for _, moment in demands} == {"1060", "1120"}
    assert 'kubeballoon_node_state{node="worker-01",state="Ample"} 1.0 1060' in metrics
    assert "kubeballoon_leader{} 1.0 1120" in metrics


def test_a_range_is_asked_for_with_the_dashboard_s_variables_filled_in() -> None:
    prometheus = Recorder()
    target = {"refId": "A", "expr": 'rate(x{node=~"$node"}[$__rate_interval]) * $price', "legendFormat": "of {{node}}"}
    answers = panel_answers(prometheus, panels(target), Span(0, 2400))
    ((what, asked),) = prometheus.queries
    assert (what, asked["query"], asked["step"]) == ("query_range", 'rate(x{node=~".*"}[5m]) * 5', 10)
    assert answers == {
        7: [
            {
                "refId": "A",
                "name": "of worker-1",
                "labels": {"node": "worker-1"},
                "times": [60_000, 120_000],
                "values": [1.0, None],
            }
        ]
    }


def test_an_instant_is_asked_for_at_the_end_of_the_span() -> None:
    prometheus = Recorder()
    target = {"refId": "B", "expr": "max_over_time(x[$window:5m])", "legendFormat": "", "instant": True}
    ((series,),) = panel_answers(prometheus, panels(target), Span(0, 2400)).values()
    assert prometheus.queries == [("query", {"query": "max_over_time(x[1d:5m])", "time": 2400})]
    assert series["values"] == [1.0]


def test_each_panel_of_the_dashboard_names_only_variables_that_have_a_value() -> None:
    prometheus = Recorder()
    answers = panel_answers(prometheus, DASHBOARD, Span(0, 3600))
    assert len(answers) > 15
    assert {"$price", "$window"} <= set(chosen_values(DASHBOARD))
    assert [asked["query"] for _, asked in prometheus.queries if "$" in asked["query"]] == []
