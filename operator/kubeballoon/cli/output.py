"""What commands print: tables for people, JSON and YAML for programs."""

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
from kubeballoon.core.wording import human


class Style(Enum):
    """How a cell is to be noticed, as ANSI's parameter."""

    PLAIN = ""
    GOOD = "32"
    WARN = "33"
    BAD = "31"
    STRONG = "1"


@dataclass(frozen=True, slots=True)
class Cell:
    """A table's cell that is to be noticed."""

    text: str
    style: Style = Style.PLAIN


Row = Sequence[str | Cell]


@dataclass(frozen=True, slots=True)
class Output:
    """Where and how a command prints.

    Attributes:
        form: json, yaml, wide, or None for a plain table.
    """

    form: str | None
    stream: TextIO
    colours: bool

    @classmethod
    def of(cls, form: str | None) -> Output:
        """To standard output; in colours only where that is a terminal that has them, and NO_COLOR is not set."""
        plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
        return cls(form, sys.stdout, colours=sys.stdout.isatty() and not plain)

    @property
    def wide(self) -> bool:
        """Whether tables have all their columns."""
        return self.form == "wide"

    def document(self, view: ApiModel) -> bool:
        """Print the view where a program is to read it; False where a person is."""
        if self.form == "json":
            self.say(json.dumps(view.to_wire(), indent=2))
        elif self.form == "yaml":
            self.say(yaml.safe_dump(view.to_wire(), sort_keys=False, width=120, allow_unicode=True).rstrip())
        else:
            return False
        return True

    def say(self, *cells: str | Cell) -> None:
        """Print one line."""
        print("".join(self._paint(_cell(cell)) for cell in cells), file=self.stream)

    def table(self, header: Sequence[str], rows: Sequence[Row], indent: str = "") -> None:
        """Print columns as kubectl does."""
        cells = [[_cell(cell) for cell in row] for row in ([*header], *rows)]
        widths = [max(len(row[column].text) for row in cells) for column in range(len(header))]
        for row in cells:
            padded = [
                self._paint(cell) + ("" if column == len(widths) - 1 else " " * (widths[column] - len(cell.text)))
                for column, cell in enumerate(row)
            ]
            self.say(indent + "   ".join(padded).rstrip())

    def section(self, header: Sequence[str], rows: Sequence[Row]) -> None:
        """Print a table, with a line's space above it; nothing where it has no rows."""
        if rows:
            self.say()
            self.table(header, rows)

    def bullets(self, title: str, lines: Sequence[str]) -> None:
        """Print a paragraph of points."""
        self.say()
        self.say(Cell(title, Style.STRONG))
        for line in lines:
            self.say(f"- {line}")

    def _paint(self, cell: Cell) -> str:
        if not self.colours or cell.style is Style.PLAIN:
            return cell.text
        return f"\x1b[{cell.style.value}m{cell.text}\x1b[0m"


def _cell(cell: str | Cell) -> Cell:
    return cell if isinstance(cell, Cell) else Cell(cell)


def size(amount: int | None) -> str:
    """Bytes for a person; "-" where they are not known."""
    return "-" if amount is None else "0" if amount == 0 else human(amount)


def arrow(before: str, after: str) -> str:
    """A change for a person; only the value where there is none."""
    return before if before == after else f"{before} → {after}"


def warn(text: str) -> None:
    """Tell the person, not the program that reads the output."""
    print(text, file=sys.stderr)  # noqa: T201 - a command talks to its user
