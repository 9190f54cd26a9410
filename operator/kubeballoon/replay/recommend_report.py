"""This module shows a recommendation: as text, as JSON, and as an HTML page with plots that loads no other file."""

from __future__ import annotations

import html
import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from kubeballoon.core.formatting import human
from kubeballoon.replay.recommendation import DAY, Limits, RatioResult, highest_safe, patches
from kubeballoon.replay.report import align, embed, html_page, html_table
from kubeballoon.replay.vm_sizing import SizeAdvice

_LISTED_VMS = 10
_HEAD = (
    "overcommit", "safe", "within limits", "at least", "unmet", "short", "VMs killed", "nodes", "saved", "min"
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Recommendation:
    """A Recommendation is what the command found.

    Attributes:
        results: how each ratio fared, in ascending order.
        seconds: how long the history lasts.
        node_memory: memory of each node, bytes.
        nodes_without: how many nodes are needed without overcommitment.
        nodes_now: how many nodes ran VMs; 0 if that is not known.
        sizes: the VMs that are too large or too small.
        price: of a GiB of a node's memory in a month; None if it is not known.
    """

    results: Sequence[RatioResult]
    limits: Limits
    seconds: float
    node_memory: int
    nodes_without: int
    nodes_now: int
    sizes: Sequence[SizeAdvice]
    price: float | None = None

    @property
    def best(self) -> RatioResult | None:
        """The highest safe ratio; None if no ratio is safe."""
        return highest_safe(self.results)

    @property
    def patches(self) -> list[dict[str, Any]]:
        """What to set."""
        return [] if self.best is None else patches(self.best)

    def to_json(self) -> dict[str, Any]:
        """Return everything as scripts read it; keys are stable."""
        return {
            "recommended_overcommit": None if self.best is None else self.best.trial.ratio,
            "days": self.seconds / DAY,
            "node_memory_bytes": self.node_memory,
            "nodes_without_overcommit": self.nodes_without,
            "nodes_now": self.nodes_now or None,
            "limits": {
                "unmet_share": self.limits.unmet_share,
                "short_seconds": self.limits.short_seconds,
                "target_share": self.limits.target,
            },
            "ratios": [each.to_json(self.node_memory, self.price) for each in self.results],
            "patches": self.patches,
            "vm_sizes": [each.to_json() for each in self.sizes],
        }


def text(found: Recommendation) -> str:
    """Format everything for a terminal."""
    parts = [align([_HEAD, *_ratio_rows(found)]), summary(found)]
    if found.patches:
        parts.append("\n".join(["To set it:", *(f"  {command}" for command in commands(found))]))
    if found.sizes:
        rest = len(found.sizes) - _LISTED_VMS
        more = [f"and {rest} more (-o json lists all)"] if rest > 0 else []
        listed = align([_SIZE_HEAD, *_size_rows(found.sizes[:_LISTED_VMS])])
        parts.append("\n".join([f"VMs whose size does not fit what they work with: {len(found.sizes)}", listed, *more]))
    return "\n\n".join(parts)


def summary(found: Recommendation) -> str:
    """Say in words what is recommended, and how sure that is."""
    days, limit = int(found.seconds // DAY), found.limits
    limits = (
        f"at most {limit.unmet_share:.2%} of a node's demand unmet in a day, {limit.short_seconds / 60:g} minutes "
        "Scarce or Critical, no VM killed"
    )
    best = found.best
    if best is None:
        return (
            f"No ratio that was tried is safe: over {days} days, {limit.target:.1%} of the nodes' days have to be "
            f"within limits ({limits})."
        )
    worth = "" if found.price is None else f", worth {_worth(found, best):,.0f} a month"
    return (
        f"Recommended: {best.trial.ratio:g}. Of {best.observations} days of nodes, {best.share:.1%} were within limits "
        f"({limits}); with 95 % confidence it is {best.confident_share:.1%} or more. "
        f"Nodes of {human(found.node_memory)}: {best.trial.nodes} instead of {found.nodes_without}, "
        f"{best.nodes_saved} saved{worth}."
    )


def commands(found: Recommendation) -> list[str]:
    """Write the commands that set what is recommended."""
    lines = []
    for each in found.patches:
        patch = json.dumps(each["patch"], separators=(",", ":"))
        where = (
            "kubevirt kubevirt -n kubevirt"
            if each["kind"] == "KubeVirt"
            else f"mempol {shlex.quote(each['name'] or 'NAME')}"
        )
        lines.append(f"kubectl patch {where} --type=merge -p '{patch}'")
    return lines


def write(found: Recommendation, path: Path) -> None:
    """Write an HTML page that holds everything."""
    parts = [
        f"<p>{html.escape(summary(found))}</p>",
        html_table(_HEAD, _ratio_rows(found)),
        embed("Node-days within the limits", _plot_shares(found)),
        embed("Unmet demand, and nodes short of memory", _plot_shortage(found)),
    ]
    if found.patches:
        parts.append(f"<h2>To set it</h2><pre>{html.escape(chr(10).join(commands(found)))}</pre>")
    if found.sizes:
        parts.append(f"<h2>VMs to resize</h2>{html_table(_SIZE_HEAD, _size_rows(found.sizes))}")
    path.write_text(html_page("kubeballoon recommend", "".join(parts)), encoding="utf-8")


def _worth(found: Recommendation, result: RatioResult) -> float:
    return float(result.to_json(found.node_memory, found.price)["saved_per_month"])


def _ratio_rows(found: Recommendation) -> list[list[str]]:
    rows = []
    for each in found.results:
        short = each.totals.short_seconds / 60 / each.placements
        minimums = each.trial.minimums
        several = len(minimums) > 1
        listed = ", ".join(
            f"{policy or 'others'} {minimum}%" if several or policy else f"{minimum}%"
            for policy, minimum in minimums.items()
        )
        saved = (
            f"{each.nodes_saved}" if found.price is None else f"{each.nodes_saved} ({_worth(found, each):,.0f}/month)"
        )
        rows.append(
            [
                f"{each.trial.ratio:g}",
                "yes" if each.safe else "no",
                f"{each.share:.1%} of {each.observations}",
                f"{each.confident_share:.1%}",
                f"{each.totals.unmet_share:.3%}",
                f"{short:.1f} min",
                f"{each.totals.killed / each.placements:g}",
                f"{each.trial.nodes}",
                saved,
                listed or "as in the file",
            ]
        )
    return rows


_SIZE_HEAD = ("VM", "has", "peak", "swapping", "give it")


def _size_rows(sizes: Sequence[SizeAdvice]) -> list[list[str]]:
    return [
        [each.vm, human(each.size), human(each.peak), f"{each.swapping:.0%} of the time", human(each.suggested)]
        for each in sizes
    ]


def _plot_shares(found: Recommendation) -> Figure:
    """Plot the share of node-days within the limits, with what is reached with 95 % confidence."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    ratios = [each.trial.ratio for each in found.results]
    shares = [100 * each.share for each in found.results]
    below = [100 * (each.share - each.confident_share) for each in found.results]
    axes.errorbar(ratios, shares, yerr=[below, [0.0] * len(below)], marker="o", capsize=4, label="within limits")
    axes.axhline(100 * found.limits.target, linestyle="--", color="grey", label="target")
    if found.best is not None:
        axes.axvline(found.best.trial.ratio, linestyle=":", color="green", label="recommended")
    axes.set(xlabel="overcommit", ylabel="node-days within limits, %")
    axes.legend()
    return figure


def _plot_shortage(found: Recommendation) -> Figure:
    """Plot unmet demand and the minutes of nodes short of memory."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    unmet, short = figure.subplots(1, 2)
    ratios = [each.trial.ratio for each in found.results]
    unmet.plot(ratios, [100 * each.totals.unmet_share for each in found.results], marker="o")
    unmet.set(xlabel="overcommit", ylabel="demand unmet, %")
    minutes = [each.totals.short_seconds / 60 / each.placements for each in found.results]
    short.plot(ratios, minutes, marker="o", color="tab:red")
    short.set(xlabel="overcommit", ylabel="nodes Scarce or Critical, minutes")
    return figure
