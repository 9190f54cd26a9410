"""draw() and draw_cluster(): draw the memory of guests and nodes over time, as a PNG."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hack.demo.record import Recorder
from hack.demo.stage import GUEST_BYTES, NODE_BYTES
from hack.testbed.lab import MIB

_COLOURS = ("#d1495b", "#00798c", "#edae49", "#30638e")


def draw(recorder: Recorder, path: Path) -> None:
    """Draw the memory that each guest may use, the first guest's load, and the node's memory in use."""
    figure, (above, below) = _panels()
    times = [one.at for one in recorder.measurements]
    _draw_guests(above, recorder)
    loaded = [one.load.get("vm-1", 0) / MIB for one in recorder.measurements]
    above.fill_between(times, loaded, color=_COLOURS[0], alpha=0.2, linewidth=0, label="vm-1's load")
    above.set_ylim(bottom=0, top=GUEST_BYTES / MIB * 1.2)
    used = [one.used / MIB for one in recorder.measurements]
    below.fill_between(times, used, color="#888888", alpha=0.4, label="node uses")
    below.axhline(NODE_BYTES / MIB, color="#444444", linestyle="--", linewidth=1, label="the node's memory")
    below.set_ylim(bottom=0, top=NODE_BYTES / MIB * 1.1)
    below.legend(loc="lower right", ncols=2, fontsize=8, frameon=False)
    _finish(figure, above, below, recorder, path)


def draw_cluster(recorder: Recorder, node_bytes: int, path: Path) -> None:
    """Draw the memory that each VM may use and has resident, and what each node's pods use of ``node_bytes``."""
    figure, (above, below) = _panels()
    times = [one.at for one in recorder.measurements]
    _draw_guests(above, recorder)
    for colour, name in zip(_COLOURS, recorder.measurements[0].resident, strict=False):
        resident = [one.resident[name] / MIB for one in recorder.measurements]
        above.fill_between(times, resident, color=colour, alpha=0.15, linewidth=0, label=f"{name}: resident")
    above.set_ylim(bottom=0, top=max(max(one.actual.values()) for one in recorder.measurements) / MIB * 1.2)
    for colour, name in zip(reversed(_COLOURS), recorder.measurements[0].memory.used, strict=False):
        used = [one.memory.used[name] / MIB for one in recorder.measurements]
        below.plot(times, used, color=colour, label=f"{name}'s pods use")
    below.axhline(node_bytes / MIB, color="#444444", linestyle="--", linewidth=1, label="each node has for them")
    below.set_ylim(bottom=0, top=node_bytes / MIB * 1.3)  # with room for the legend
    below.legend(loc="upper right", ncols=3, fontsize=8, frameon=False)
    _finish(figure, above, below, recorder, path)


def _panels() -> tuple[Figure, tuple[Axes, Axes]]:
    figure, (above, below) = plt.subplots(2, 1, figsize=(10, 7), sharex=True, height_ratios=(3, 2))
    return figure, (above, below)


def _draw_guests(axes: Axes, recorder: Recorder) -> None:
    times = [one.at for one in recorder.measurements]
    for colour, name in zip(_COLOURS, recorder.measurements[0].actual, strict=False):
        axes.plot(
            times, [one.actual[name] / MIB for one in recorder.measurements], color=colour, label=f"{name} may use"
        )


def _finish(figure: Figure, above: Axes, below: Axes, recorder: Recorder, path: Path) -> None:
    """Number the events, name them below, and write the picture."""
    above.legend(loc="upper right", ncols=5, fontsize=8, frameon=False)
    below.set_xlabel("seconds")
    for number, (at, text) in enumerate(recorder.events, start=1):
        for axes in (above, below):
            axes.axvline(at, color="#bbbbbb", linewidth=0.8, zorder=0)
        above.annotate(f"{number}", (at, 1.01), xycoords=("data", "axes fraction"), ha="center", fontsize=9)
        below.annotate(
            f"{number}  {text}", (0, -0.28 - 0.075 * number), xycoords="axes fraction", fontsize=8, color="#444444"
        )
    for axes in (above, below):
        axes.set_ylabel("MiB")
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130, bbox_inches="tight")
    plt.close(figure)
