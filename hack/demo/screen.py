"""Screen: shows the demo as a live table on a terminal, and as a line every three seconds elsewhere."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from hack.demo.record import Measurement
from kubeballoon.core.formatting import human

_LINE_SECONDS = 3.0
_WIDEST, _NARROWEST = 28, 4  # bars, characters


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of the table: a name, a bar that is filled to `part` of `whole`, and a text."""

    name: str
    part: int
    whole: int
    text: str


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
        node = _Row("node", now.used, total, f"{human(now.used):>8} of {human(total)} used, state {state}")
        self._show(now, [node], f"node {state}, {human(total - now.used)} free", sizes)

    def show_nodes(self, now: Measurement, total: int, sizes: dict[str, int]) -> None:
        """Show a measurement of nodes of ``total`` bytes each."""
        used = now.memory.used
        rows = [_Row(name, each, total, f"{human(each):>8} of {human(total)} used") for name, each in used.items()]
        free = ", ".join(f"{name} {human(total - each)} free" for name, each in used.items())
        self._show(now, rows, free, sizes)

    def _show(self, now: Measurement, rows: list[_Row], line: str, sizes: dict[str, int]) -> None:
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
            size, load, resident = sizes[name], now.load.get(name, 0), now.resident[name]
            text = f"{human(actual):>8} of {human(size)}, load {human(load):>8}, node holds {human(resident):>8}"
            rows.append(_Row(name, actual, size, text))
        self._write("".join(f"{line}\n" for line in _lines(rows, shutil.get_terminal_size().columns)))
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


def _lines(rows: list[_Row], columns: int) -> list[str]:
    """Lay out a table whose bars leave room for the texts: a line that wraps could not be erased with the others."""
    names = max(len(row.name) for row in rows)
    room = columns - 1 - max(len(f"  {row.name:{names}}  {row.text}") for row in rows)
    width = max(_NARROWEST, min(_WIDEST, room))
    return [f"  {row.name:{names}} {_bar(row.part, row.whole, width)} {row.text}"[: columns - 1] for row in rows]


def _bar(part: int, whole: int, width: int) -> str:
    filled = max(0, min(width, round(width * part / whole)))
    return "█" * filled + "·" * (width - filled)
