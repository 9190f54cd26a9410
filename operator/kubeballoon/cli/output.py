"""This module prints results: tables for people, JSON and YAML for programs."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from kubeballoon.cli.table import Cell, Column, Style, layout
from kubeballoon.core.formatting import printable

if TYPE_CHECKING:
    from kubeballoon.api.meta import ApiModel


Row = Sequence[str | Cell]
JSONPATH = "jsonpath="
"""What an output format begins with if the rest of it is a template."""


@dataclass(frozen=True, slots=True)
class Output:
    """An Output prints what a command found, in the format that the user chose.

    Guests and tenants write some of it, so only the Output's own characters may be others than printable ones.

    Attributes:
        output_format: json, yaml, name, wide, ``jsonpath=TEMPLATE``, or None for a plain table.
        stream: where everything is printed.
        colours: whether styles are printed.
        columns: the width of the terminal; None where nobody looks, so that nothing is cut.
        headers: whether tables have a header.
    """

    output_format: str | None
    stream: TextIO
    colours: bool
    columns: int | None = None
    headers: bool = True

    @classmethod
    def to_stdout(cls, output_format: str | None, *, headers: bool = True) -> Output:
        """Print to standard output, in colours only on a terminal that has them, and never if NO_COLOR is set."""
        no_colours = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
        is_terminal = sys.stdout.isatty()
        columns = shutil.get_terminal_size().columns if is_terminal and output_format != "wide" else None
        return cls(output_format, sys.stdout, is_terminal and not no_colours, columns, headers)

    @property
    def wide(self) -> bool:
        """Whether tables have all their columns."""
        return self.output_format == "wide"

    def print_document(self, model: ApiModel, names: Sequence[str] = ()) -> bool:
        """Print the model in a format for programs; False if a table is to be printed instead.

        Args:
            model: what the command found.
            names: what ``-o name`` prints, TYPE/NAME each.

        Raises:
            WrongOptionError: the template of ``-o jsonpath`` cannot be read.
        """
        if self.output_format == "json":
            self.print_text(json.dumps(model.to_wire(), indent=2))
        elif self.output_format == "yaml":
            import yaml  # noqa: PLC0415 - tables do without

            self.print_text(yaml.safe_dump(model.to_wire(), sort_keys=False, width=120, allow_unicode=True).rstrip())
        elif self.output_format == "name":
            for name in names:
                self.print_line(name)
        elif self.output_format is not None and self.output_format.startswith(JSONPATH):
            from kubeballoon.cli import jsonpath  # noqa: PLC0415 - so does whoever asks for no path

            text = jsonpath.render(self.output_format.removeprefix(JSONPATH), model.to_wire())
            self.stream.write("\n".join(map(_printable_with_tabs, text.split("\n"))))
        else:
            return False
        return True

    def print_text(self, text: str) -> None:
        """Print a text of several lines as it is."""
        self._write("\n".join(map(printable, text.split("\n"))))

    def print_line(self, *cells: str | Cell) -> None:
        """Print the cells as one line, with nothing between them; without cells, an empty line."""
        self._write("".join(self._paint(_cell(cell)) for cell in cells))

    def print_table(self, header: Sequence[str | Column], rows: Sequence[Row], *, headers: bool | None = None) -> None:
        """Print a header and rows in aligned columns that fit the terminal; ``headers`` overrides the option."""
        columns = [each if isinstance(each, Column) else Column(each) for each in header]
        cells = [[_cell(cell) for cell in row] for row in rows]
        with_header = self.headers if headers is None else headers
        for line in layout(columns, cells, self.columns, headers=with_header):
            self._write("".join(self._paint(cell) for cell in line).rstrip(" "))

    def print_section(self, header: Sequence[str | Column], rows: Sequence[Row]) -> None:
        """Print a table below an empty line; nothing if there are no rows."""
        if rows:
            self.print_line()
            self.print_table(header, rows)

    def print_bullets(self, title: str, items: Sequence[str]) -> None:
        """Print a title and a list of items below an empty line."""
        self.print_line()
        self.print_line(Cell(title, Style.STRONG))
        for item in items:
            self.print_line(f"- {item}")

    def _write(self, text: str) -> None:
        print(text, file=self.stream)

    def _paint(self, cell: Cell) -> str:
        if not self.colours or cell.style is Style.PLAIN:
            return cell.text
        return f"\x1b[{cell.style.value}m{cell.text}\x1b[0m"


def _printable_with_tabs(line: str) -> str:
    """Make a line of a template's output printable; templates put tabs between values."""
    return "\t".join(map(printable, line.split("\t")))


def _cell(cell: str | Cell) -> Cell:
    return Cell(printable(cell.text), cell.style) if isinstance(cell, Cell) else Cell(printable(cell))


_UNITS = (("Ti", 1 << 40), ("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10))
_THREE_DIGITS = 99.95  # from here on a decimal place would be the fourth digit


def format_bytes(amount: int | None) -> str:
    """Format an amount of memory, bytes, without a blank, so that it stays one word: "1.0Gi"; "-" if not known."""
    if amount is None:
        return "-"
    for unit, factor in _UNITS:
        value = amount / factor
        if abs(value) >= 1:
            places = 0 if abs(value) >= _THREE_DIGITS or unit in ("Mi", "Ki") else 1
            return f"{value:.{places}f}{unit}"
    return str(amount)


def format_count(count: int | None) -> str:
    """Format a number of processors; "-" if it is not known."""
    return "-" if count is None else str(count)


def format_percent(percent: int | None) -> str:
    """Format a percentage; "-" if it is not known."""
    return "-" if percent is None else f"{percent}%"


def format_change(before: str, after: str) -> str:
    """Format a value before and after a change, joined by an arrow; only the value if both are the same."""
    return before if before == after else f"{before}→{after}"


def warn(message: str) -> None:
    """Print a message to standard error, where no program that parses the output sees it."""
    print(printable(message), file=sys.stderr)  # noqa: T201 - a command talks to its user
