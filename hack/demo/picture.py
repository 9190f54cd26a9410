"""draw(): draws the memory of guests and node over time, as a PNG."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt

from hack.demo.record import Recorder
from hack.demo.stage import GUEST_BYTES, NODE_BYTES
from hack.testbed.lab import MIB

_COLOURS = ("#d1495b", "#00798c", "#edae49", "#30638e")


def draw(recorder: Recorder, path: Path) -> None:
    """Draw the memory that each guest may use, the first guest's load, and the node's memory in use."""
    measurements = recorder.measurements
    times = [one.at for one in measurements]
    figure, (above, below) = plt.subplots(2, 1, figsize=(10, 7), sharex=True, height_ratios=(3, 2))
    for colour, name in zip(_COLOURS, measurements[0].actual, strict=True):
        above.plot(times, [one.actual[name] / MIB for one in measurements], color=colour, label=f"{name} may use")
    loaded = [one.load.get("vm-1", 0) / MIB for one in measurements]
    above.fill_between(times, loaded, color=_COLOURS[0], alpha=0.2, linewidth=0, label="vm-1's load")
    above.set_ylabel("MiB")
    above.set_ylim(bottom=0, top=GUEST_BYTES / MIB * 1.2)
    above.legend(loc="upper right", ncols=5, fontsize=8, frameon=False)
    below.fill_between(times, [one.used / MIB for one in measurements], color="#888888", alpha=0.4, label="node uses")
    below.axhline(NODE_BYTES / MIB, color="#444444", linestyle="--", linewidth=1, label="the node's memory")
    below.set_ylabel("MiB")
    below.set_xlabel("seconds")
    below.set_ylim(bottom=0, top=NODE_BYTES / MIB * 1.1)
    below.legend(loc="lower right", ncols=2, fontsize=8, frameon=False)
    for number, (at, text) in enumerate(recorder.events, start=1):
        for axes in (above, below):
            axes.axvline(at, color="#bbbbbb", linewidth=0.8, zorder=0)
        above.annotate(f"{number}", (at, 1.01), xycoords=("data", "axes fraction"), ha="center", fontsize=9)
        below.annotate(
            f"{number}  {text}", (0, -0.28 - 0.075 * number), xycoords="axes fraction", fontsize=8, color="#444444"
        )
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130, bbox_inches="tight")
    plt.close(figure)
