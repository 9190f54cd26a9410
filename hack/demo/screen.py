"""Screen: shows the demo as a live table on a terminal, and as a line every three seconds elsewhere."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, TextIO

from hack.demo.record import Measurement
from kubeballoon.core.formatting import human

_LINE_SECONDS = 3.0
_WIDTH = 28


class Screen:
    """A display on one stream."""

    def __init__(self, stream: TextIO) -> None:
        """Write to ``stream``."""
        self._stream = stream
        self._live = stream.isatty()
        self._table_lines = 0
        self._next_line = 0.0
        self._shown_at = -1.0  # of the measurement that was written last

    def say(self, text: str) -> None:
        """Write a line that stays."""
        self._erase()
        self._write(f"» {text}\n")

    def show(self, now: Measurement, total: int, state: str, sizes: dict[str, int]) -> None:
        """Show a measurement, of a node of ``total`` bytes; on a terminal, the table is drawn over the last one."""
        node = f"  node   {_bar(now.used, total)} {human(now.used):>9} of {human(total)} used, state {state}"
        self._show(now, [node], f"node {state}, {human(total - now.used)} free", sizes)

    def show_nodes(self, now: Measurement, total: int, sizes: dict[str, int]) -> None:
        """Show a measurement of nodes of ``total`` bytes each."""
        used = now.memory.used
        rows = [f"  {name} {_bar(each, total)} {human(each):>9} of {human(total)} used" for name, each in used.items()]
        free = ", ".join(f"{name} {human(total - each)} free" for name, each in used.items())
        self._show(now, rows, free, sizes)

    def _show(self, now: Measurement, rows: list[str], line: str, sizes: dict[str, int]) -> None:
        """Draw rows for the nodes, to which those for the guests are added, or write a line about both."""
        if not self._live:
            if time.monotonic() >= self._next_line and now.at != self._shown_at:
                self._shown_at = now.at
                self._next_line = time.monotonic() + _LINE_SECONDS
                guests = ", ".join(f"{name} {human(size)}" for name, size in now.actual.items())
                self._write(f"  {now.at:5.1f} s  {line}; {guests}\n")
            return
        self._erase()
        for name, actual in now.actual.items():
            load = now.load.get(name, 0)
            rows.append(
                f"  {name:6} {_bar(actual, sizes[name])} may use {human(actual):>8} of {human(sizes[name])}"
                f", load {human(load):>8}, node holds {human(now.resident[name])}"
            )
        self._write("\n".join(rows) + "\n")
        self._table_lines = len(rows)

    def finish(self, summary: dict[str, Any], directory: Path) -> None:
        """Write the summary of the memory scene, and the paths of its files in ``directory``."""
        self._erase()
        self._write("\n")
        for check in summary["checks"]:
            self._write(f"  {'ok ' if check['ok'] else 'NOT'}  {check['what']}\n")
        if summary["failure"]:
            self._write(f"  NOT  {summary['failure']}\n")
        seconds = summary["secondsUntilAmple"]
        self._write(f"\n  moved {human(summary['bytesMoved'])}")
        self._write(f", Ample again after {seconds:.1f} s" if seconds is not None else ", not Ample again")
        self._write(f", all of it in {summary['seconds']:.0f} s\n")
        self._write(f"  {directory / 'demo.json'}, {directory / 'demo.png'}, logs in {directory / 'demo-logs'}\n")

    def _erase(self) -> None:
        if self._table_lines:
            self._write(f"\x1b[{self._table_lines}A\x1b[J")
            self._table_lines = 0

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def _bar(part: int, whole: int) -> str:
    filled = max(0, min(_WIDTH, round(_WIDTH * part / whole)))
    return "█" * filled + "·" * (_WIDTH - filled)
