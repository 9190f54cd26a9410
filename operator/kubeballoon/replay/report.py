"""The results for people: a table, plots, and one HTML file that needs nothing beside it."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from kubeballoon.core.units import GIB
from kubeballoon.core.wording import human
from kubeballoon.replay.comparison import STRATEGIES, NodeStory, ReplayResults
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
    "moved_gib": "moved GiB",
    "direction_changes": "direction changes",
    "below_min_seconds": "below min s",
}
_HOUR = 3600.0
_STYLE = (
    "body{font:15px sans-serif;max-width:60em;margin:2em auto}td,th{padding:.2em .6em;text-align:left}img{width:100%}"
)


def table(runs: Sequence[Mapping[str, Any]]) -> str:
    """The runs as aligned text."""
    rows = [list(_COLUMNS.values()), *([_cell(run[key]) for key in _COLUMNS] for run in runs)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def write(results: ReplayResults, directory: Path) -> None:
    """Write ``report.html`` and its plots as PNGs."""
    plots: dict[str, tuple[str, Callable[[], Figure]]] = {
        "curve.png": ("Saved memory against unmet demand", lambda: _curve(results.runs)),
        "node.png": ("One node over time", lambda: _node(results.story)),
    }
    images = []
    for name, (title, draw) in plots.items():
        data = _png(draw())
        (directory / name).write_bytes(data)
        source = base64.b64encode(data).decode()
        images.append(f'<h2>{title}</h2><img alt="{title}" src="data:image/png;base64,{source}">')
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>kubeballoon replay</title>'
        f"<style>{_STYLE}</style><h1>kubeballoon replay</h1>{_runs(results.runs)}{''.join(images)}"
        f"{_reasons(results.story)}</html>\n"
    )
    (directory / "report.html").write_text(page, encoding="utf-8")


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _rows(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(tag: str, cells: Sequence[str]) -> str:
        return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>"

    return f"<table>{line('th', head)}{''.join(line('td', row) for row in rows)}</table>"


def _runs(runs: Sequence[StrategyRun]) -> str:
    wire = [run.to_json() for run in runs]
    return _rows(list(_COLUMNS.values()), [[_cell(run[key]) for key in _COLUMNS] for run in wire])


def _reasons(story: NodeStory) -> str:
    rows = [
        [decision.vm.name, human(decision.vm.size), human(_target(decision.target, decision.vm.size)), decision.message]
        for decision in story.decisions
    ]
    title = f"Why, on {story.load.name} at its peak ({story.peak / _HOUR:.1f} h)"
    return f"<h2>{html.escape(title)}</h2>{_rows(('VM', 'size', 'may use', 'reason'), rows)}"


def _target(target: int | None, size: int) -> int:
    return size if target is None else target


def _curve(runs: Sequence[StrategyRun]) -> Figure:
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    for strategy in STRATEGIES:
        mine = sorted((run for run in runs if run.strategy == strategy), key=lambda run: run.overcommit)
        points = [(100 * run.saved_share, 100 * run.unmet_share) for run in mine]
        axes.plot(*zip(*points, strict=True), marker="o", label=strategy)
    saved = {100 * run.saved_share: run.overcommit for run in runs}
    axes.set_xticks(list(saved), [f"{share:.0f}\n({ratio:g})" for share, ratio in saved.items()])
    axes.set(xlabel="memory saved, % of the VMs' sizes (overcommit)", ylabel="demand unmet, %")
    axes.legend()
    return figure


def _node(story: NodeStory) -> Figure:
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    hours = [moment.at / _HOUR for moment in story.moments]
    axes.plot(hours, [moment.demand / GIB for moment in story.moments], label="demand")
    axes.plot(hours, [sum(moment.targets) / GIB for moment in story.moments], label="targets")
    axes.plot(hours, [moment.unmet / GIB for moment in story.moments], label="unmet")
    axes.axhline(story.load.memory / GIB, linestyle="--", color="grey", label="node memory")
    axes.axhline(story.load.capacity / GIB, linestyle=":", color="grey", label="capacity for VMs")
    axes.set(xlabel="hours", ylabel="GiB")
    axes.legend()
    return figure


def _png(figure: Figure) -> bytes:
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=110)
    return data.getvalue()
