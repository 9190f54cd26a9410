"""This module shows results of a replay: a table, plots, and an HTML page that loads no other file."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from kubeballoon.core.formatting import human
from kubeballoon.core.units import GIB
from kubeballoon.replay.comparison import NodeTimeline, ReplayResults
from kubeballoon.replay.totals import StrategyRun

_COLUMNS = {
    "strategy": "strategy",
    "overcommit": "overcommit",
    "nodes": "nodes",
    "vms": "VMs",
    "demand_gib_hours": "demand GiB·h",
    "unmet_gib_hours": "unmet GiB·h",
    "unmet_share": "unmet share",
    "exhaustions": "exhaustions",
    "exhausted_seconds": "exhausted s",
    "vms_killed": "VMs killed",
    "moved_gib": "moved GiB",
    "direction_changes": "direction changes",
    "below_min_seconds": "below min s",
    "short_seconds": "short s",
    "migrations": "migrations",
}
_HOUR = 3600.0
_STYLE = (
    "body{font:15px sans-serif;max-width:60em;margin:2em auto}td,th{padding:.2em .6em;text-align:left}img{width:100%}"
)


def table(runs: Sequence[Mapping[str, Any]]) -> str:
    """Format the runs as aligned text."""
    return align([list(_COLUMNS.values()), *([_cell(run[key]) for key in _COLUMNS] for run in runs)])


def align(rows: Sequence[Sequence[str]]) -> str:
    """Format rows as text with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def write(results: ReplayResults, directory: Path) -> None:
    """Write ``report.html``, which holds everything, and its plots as PNG files."""
    plots: dict[str, tuple[str, Callable[[], Figure]]] = {
        "curve.png": ("Saved memory against unmet demand", lambda: _plot_savings(results.runs)),
        "node.png": ("One node over time", lambda: _plot_node(results.timeline)),
    }
    images = []
    for name, (title, draw) in plots.items():
        figure = draw()
        (directory / name).write_bytes(_png(figure))
        images.append(embed(title, figure))
    content = f"{_format_runs(results.runs)}{''.join(images)}{_format_decisions(results.timeline)}"
    (directory / "report.html").write_text(html_page("kubeballoon replay", content), encoding="utf-8")


def html_page(title: str, content: str) -> str:
    """Make a page of ``content``, which is HTML."""
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style><h1>{title}</h1>{content}</html>\n"
    )


def embed(title: str, figure: Figure) -> str:
    """Make a part of a page that shows a figure under its title."""
    source = base64.b64encode(_png(figure)).decode()
    return f'<h2>{title}</h2><img alt="{title}" src="data:image/png;base64,{source}">'


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Make a table of texts."""

    def line(tag: str, cells: Sequence[str]) -> str:
        return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>"

    return f"<table>{line('th', head)}{''.join(line('td', row) for row in rows)}</table>"


def _format_runs(runs: Sequence[StrategyRun]) -> str:
    rows = [[_cell(run[key]) for key in _COLUMNS] for run in (each.to_json() for each in runs)]
    return html_table(list(_COLUMNS.values()), rows)


def _format_decisions(timeline: NodeTimeline) -> str:
    rows = [
        [
            decision.vm.name,
            human(decision.vm.size),
            human(decision.vm.size if decision.target is None else decision.target),
            decision.message,
        ]
        for decision in timeline.decisions
    ]
    title = f"Why, on {timeline.workload.name} at its peak ({timeline.peak / _HOUR:.1f} h)"
    return f"<h2>{html.escape(title)}</h2>{html_table(('VM', 'size', 'may use', 'reason'), rows)}"


def _plot_savings(runs: Sequence[StrategyRun]) -> Figure:
    """Plot the demand that stays unmet against the memory that is saved, a line for each strategy."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    for strategy in dict.fromkeys(run.strategy for run in runs):
        by_ratio = sorted((run for run in runs if run.strategy == strategy), key=lambda run: run.overcommit)
        points = [(100 * run.saved_share, 100 * run.unmet_share) for run in by_ratio]
        axes.plot(*zip(*points, strict=True), marker="o", label=strategy)
    saved = {100 * run.saved_share: run.overcommit for run in runs}
    axes.set_xticks(list(saved), [f"{share:.0f}\n({ratio:g})" for share, ratio in saved.items()])
    axes.set(xlabel="memory saved, % of the VMs' sizes (overcommit)", ylabel="demand unmet, %")
    axes.legend()
    return figure


def _plot_node(timeline: NodeTimeline) -> Figure:
    """Plot a node's demand, targets and unmet demand over time."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    hours = [point.at / _HOUR for point in timeline.points]
    axes.plot(hours, [point.demand / GIB for point in timeline.points], label="demand")
    axes.plot(hours, [sum(point.targets) / GIB for point in timeline.points], label="targets")
    axes.plot(hours, [point.unmet / GIB for point in timeline.points], label="unmet")
    axes.axhline(timeline.workload.memory / GIB, linestyle="--", color="grey", label="node memory")
    axes.axhline(timeline.workload.capacity / GIB, linestyle=":", color="grey", label="capacity for VMs")
    axes.set(xlabel="hours", ylabel="GiB")
    axes.legend()
    return figure


def _png(figure: Figure) -> bytes:
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=110)
    return data.getvalue()
