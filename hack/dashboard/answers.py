"""What Prometheus answers to the queries of a dashboard's panels, with the dashboard's variables filled in."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from hack.testbed.prometheus import Prometheus

_SHOWN_STEPS = 240  # as many values of each series as a panel of this width can show
# Grafana's $__rate_interval is at least four scrape intervals. "All" is chosen of what is queried.
_VARIABLES = {"$__rate_interval": "5m", "$node": ".*", "$namespace": ".*", "$vm": ".*"}

Series = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Span:
    """A time span, in Unix seconds."""

    start: float
    end: float


def panel_answers(prometheus: Prometheus, dashboard: dict[str, Any], span: Span) -> dict[int, list[Series]]:
    """Return the series that each open panel shows of a span, by the panel's id.

    Each series has its target's refId, a name, labels, times (ms) and values; of an instant query, one of each.
    """
    variables = {**_VARIABLES, "$__range": f"{round(span.end - span.start)}s", **chosen_values(dashboard)}
    return {
        panel["id"]: [
            series
            for target in panel["targets"]
            for series in _target_answers(prometheus, target, fill_in(target["expr"], variables), span)
        ]
        for panel in dashboard["panels"]
        if "targets" in panel
    }


def _target_answers(prometheus: Prometheus, target: dict[str, Any], expression: str, span: Span) -> list[Series]:
    if target.get("instant"):
        found = prometheus.query("query", query=expression, time=span.end)["result"]
        results = [(series["metric"], [series["value"]]) for series in found]
    else:
        times = {"start": span.start, "end": span.end, "step": (span.end - span.start) / _SHOWN_STEPS}
        found = prometheus.query("query_range", query=expression, **times)["result"]
        results = [(series["metric"], series["values"]) for series in found]
    return [
        {
            "refId": target["refId"],
            "name": _fill_in_labels(target["legendFormat"], labels),
            "labels": labels,
            "times": [round(moment * 1000) for moment, _ in values],
            "values": [None if value == "NaN" else float(value) for _, value in values],
        }
        for labels, values in results
    ]


def chosen_values(dashboard: dict[str, Any]) -> dict[str, str]:
    """Return the values that variables have at first, by ``$name``, but for variables that are queried."""
    return {
        f"${variable['name']}": variable["current"]["value"]
        for variable in dashboard["templating"]["list"]
        if variable["type"] in ("custom", "textbox")
    }


def fill_in(text: str, variables: dict[str, str]) -> str:
    """Replace each variable in a text by its value."""
    for name, value in variables.items():
        text = text.replace(name, value)
    return text


def _fill_in_labels(legend: str, labels: dict[str, str]) -> str:
    """Replace each {{label}} of a legend by its value, as Grafana does."""
    return re.sub(r"{{\s*(\w+)\s*}}", lambda found: labels.get(found[1], ""), legend)
