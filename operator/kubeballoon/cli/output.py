"""This module prints results: tables for people, JSON and YAML for programs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TextIO

import yaml

from kubeballoon.api.meta import ApiModel
from kubeballoon.core.formatting import human, printable


class Style(Enum):
    """A Style says how a cell stands out; its value is the parameter of ANSI's SGR sequence."""

    PLAIN = ""
    GOOD = "32"  # green
    WARN = "33"  # yellow
    BAD = "31"  # red
    STRONG = "1"  # bold


@dataclass(frozen=True, slots=True)
class Cell:
    """A Cell is a piece of text with a style, in a table or a line."""

    text: str
    style: Style = Style.PLAIN


Row = Sequence[str | Cell]


@dataclass(frozen=True, slots=True)
class Output:
    """An Output prints what a command found, in the format that the user chose.

    Guests and tenants write some of it, so only the Output's own characters may be others than printable ones.

    Attributes:
        output_format: json, yaml, wide, or None for a plain table.
        stream: where everything is printed.
        colours: whether styles are printed.
    """

    output_format: str | None
    stream: TextIO
    colours: bool

    @classmethod
    def to_stdout(cls, output_format: str | None) -> Output:
        """Print to standard output, in colours only on a terminal that has them, and never if NO_COLOR is set."""
        no_colours = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
        return cls(output_format, sys.stdout, colours=sys.stdout.isatty() and not no_colours)

    @property
    def wide(self) -> bool:
        """Whether tables have all their columns."""
        return self.output_format == "wide"

    def print_document(self, model: ApiModel) -> bool:
        """Print the model if the user chose JSON or YAML; False if a table is to be printed instead."""
        if self.output_format == "json":
            self.print_text(json.dumps(model.to_wire(), indent=2))
        elif self.output_format == "yaml":
            self.print_text(yaml.safe_dump(model.to_wire(), sort_keys=False, width=120, allow_unicode=True).rstrip())
        else:
            return False
        return True

    def print_text(self, text: str) -> None:
        """Print a text of several lines as it is."""
        self._write("\n".join(map(printable, text.split("\n"))))

    def print_line(self, *cells: str | Cell) -> None:
        """Print the cells as one line, with nothing between them; without cells, an empty line."""
        self._write("".join(self._paint(_cell(cell)) for cell in cells))

    def print_table(self, header: Sequence[str], rows: Sequence[Row]) -> None:
        """Print a header and rows in aligned columns, as kubectl does."""
        cells = [[_cell(cell) for cell in row] for row in ([*header], *rows)]
        widths = [max(len(row[column].text) for row in cells) for column in range(len(header))]
        for row in cells:
            padded = [
                self._paint(cell) + ("" if column == len(widths) - 1 else " " * (widths[column] - len(cell.text)))
                for column, cell in enumerate(row)
            ]
            self._write("   ".join(padded).rstrip())

    def print_section(self, header: Sequence[str], rows: Sequence[Row]) -> None:
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


def _cell(cell: str | Cell) -> Cell:
    return Cell(printable(cell.text), cell.style) if isinstance(cell, Cell) else Cell(printable(cell))


def format_bytes(amount: int | None) -> str:
    """Format an amount of memory, bytes; "-" if it is not known."""
    return "-" if amount is None else "0" if amount == 0 else human(amount)


def format_count(count: int | None) -> str:
    """Format a number of processors; "-" if it is not known."""
    return "-" if count is None else str(count)


def format_percent(percent: int | None) -> str:
    """Format a percentage; "-" if it is not known."""
    return "-" if percent is None else f"{percent}%"


def format_change(before: str, after: str) -> str:
    """Format a value before and after a change, joined by an arrow; only the value if both are the same."""
    return before if before == after else f"{before} → {after}"


def warn(message: str) -> None:
    """Print a message to standard error, where no program that parses the output sees it."""
    print(printable(message), file=sys.stderr)  # noqa: T201 - a command talks to its user
