"""What the demo shows: a live table on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, TextIO

from hack.demo.record import Moment
from kubeballoon.core.wording import human

_LINE_SECONDS = 3.0
_WIDTH = 28


class Screen:
    """Writes to one stream."""

    def __init__(self, stream: TextIO) -> None:
        """Write to ``stream``."""
        self._stream = stream
        self._live = stream.isatty()
        self._drawn = 0
        self._next_line = 0.0

    def say(self, text: str) -> None:
        """One line that stays."""
        self._erase()
        self._write(f"» {text}\n")

    def show(self, moment: Moment, total: int, state: str, sizes: dict[str, int]) -> None:
        """The numbers now; the table on a terminal is drawn over the one before."""
        if not self._live:
            if time.monotonic() >= self._next_line:
                self._next_line = time.monotonic() + _LINE_SECONDS
                guests = ", ".join(f"{name} {human(size)}" for name, size in moment.actual.items())
                self._write(f"  {moment.at:5.1f} s  node {state}, {human(total - moment.used)} free; {guests}\n")
            return
        self._erase()
        rows = [f"  node   {_bar(moment.used, total)} {human(moment.used):>9} of {human(total)} used, state {state}"]
        for name, actual in moment.actual.items():
            load = moment.load.get(name, 0)
            rows.append(
                f"  {name:6} {_bar(actual, sizes[name])} may use {human(actual):>8} of {human(sizes[name])}"
                f", load {human(load):>8}, node holds {human(moment.resident[name])}"
            )
        self._write("\n".join(rows) + "\n")
        self._drawn = len(rows)

    def finish(self, summary: dict[str, Any], output: Path) -> None:
        """The summary."""
        self._erase()
        self._write("\n")
        for check in summary["checks"]:
            self._write(f"  {'ok ' if check['ok'] else 'NOT'}  {check['what']}\n")
        if summary["failure"]:
            self._write(f"  NOT  {summary['failure']}\n")
        relief = summary["secondsFromPressureToRelief"]
        self._write(f"\n  moved {human(summary['bytesMoved'])}")
        self._write(f", from pressure to relief {relief:.1f} s" if relief is not None else ", no relief")
        self._write(f", all of it in {summary['seconds']:.0f} s\n")
        self._write(f"  {output / 'demo.json'}, {output / 'demo.png'}, logs in {output / 'demo-logs'}\n")

    def _erase(self) -> None:
        if self._drawn:
            self._write(f"\x1b[{self._drawn}A\x1b[J")
            self._drawn = 0

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def _bar(part: int, whole: int) -> str:
    filled = max(0, min(_WIDTH, round(_WIDTH * part / whole)))
    return "█" * filled + "·" * (_WIDTH - filled)
