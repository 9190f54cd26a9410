"""This module lays tables out so that they fit a terminal: long names are shortened first, then columns left out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

_GAP = "  "
_SHORTEST = 16  # characters of a name that always stay
_ELLIPSIS = "…"


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


@dataclass(frozen=True, slots=True)
class Column:
    """A Column is a column of a table.

    Attributes:
        right: whether cells are aligned at the right, as numbers are.
        shortens: whether cells may lose characters in their middle.
        optional: a column that is left out where the terminal is too narrow, the highest number first; 0 always stays.
    """

    title: str
    right: bool = False
    shortens: bool = False
    optional: int = 0


def number(title: str, optional: int = 0) -> Column:
    """Make a column of numbers."""
    return Column(title, right=True, optional=optional)


def name(title: str, optional: int = 0) -> Column:
    """Make a column of names, which may be shortened."""
    return Column(title, shortens=True, optional=optional)


def layout(
    columns: Sequence[Column], rows: Sequence[Sequence[Cell]], width: int | None, *, headers: bool = True
) -> Iterator[list[Cell]]:
    """Lay a table out: each line is a list of cells that are printed one after the other.

    Args:
        columns: the table's columns.
        rows: a cell for each column in each row.
        width: characters that a line may have; None for as many as it takes.
        headers: whether the columns' titles come first.
    """
    every = [*([[Cell(column.title) for column in columns]] if headers else []), *map(list, rows)]
    widths = [max((len(row[index].text) for row in every), default=0) for index in range(len(columns))]
    kept = list(range(len(columns)))
    if width is not None and _line(kept, widths) > width:
        every, widths = _without_shared_ends(columns, every, widths, headers=headers)
        kept, widths = _fit(columns, widths, width)
    for row in every:
        cells = [_pad(row[index], widths[index], columns[index]) for index in kept]
        yield [piece for cell in cells for piece in (cell, Cell(_GAP))][:-1]


def _fit(columns: Sequence[Column], widths: list[int], width: int) -> tuple[list[int], list[int]]:
    """Choose the columns that stay, by index, and how wide each is."""
    kept = list(range(len(columns)))
    least = [min(size, _SHORTEST) if columns[i].shortens else size for i, size in enumerate(widths)]
    while _line(kept, least) > width:
        droppable = [index for index in kept if columns[index].optional]
        if not droppable:
            break
        kept.remove(max(droppable, key=lambda index: columns[index].optional))
    fitted = list(widths)
    while _line(kept, fitted) > width:
        longest = max(kept, key=lambda index: fitted[index] - least[index])
        if fitted[longest] <= least[longest]:
            break
        fitted[longest] -= 1
    return kept, fitted


def _without_shared_ends(
    columns: Sequence[Column], every: Sequence[list[Cell]], widths: list[int], *, headers: bool
) -> tuple[list[list[Cell]], list[int]]:
    """Cut what all names of a column end in, such as a domain, since it tells none of them from another."""
    rows = [list(row) for row in every]
    widths = list(widths)
    named = rows[1:] if headers else rows
    for index, column in enumerate(columns):
        if not column.shortens or len(named) < 2:  # noqa: PLR2004 - one name shares its end with none
            continue
        end = _shared_end([row[index].text for row in named])
        for row in named:
            row[index] = Cell(row[index].text[: len(row[index].text) - len(end)], row[index].style)
        widths[index] = max(len(row[index].text) for row in rows)
    return rows, widths


def _shared_end(names: Sequence[str]) -> str:
    """Return what all names end in, from a dot on; empty if there is nothing."""
    shortest = min(names, key=len)
    length = next(
        (count for count, sign in enumerate(reversed(shortest)) if any(each[-1 - count] != sign for each in names)),
        len(shortest),
    )
    end = shortest[len(shortest) - length :]
    return end[end.index(".") :] if "." in end and end not in names else ""


def _line(kept: Sequence[int], widths: Sequence[int]) -> int:
    return sum(widths[index] for index in kept) + len(_GAP) * (len(kept) - 1)


def _pad(cell: Cell, width: int, column: Column) -> Cell:
    """Bring a cell to its column's width."""
    text = shorten(cell.text, width) if column.shortens else cell.text
    return Cell(text.rjust(width) if column.right else text.ljust(width), cell.style)


def shorten(text: str, width: int) -> str:
    """Shorten a name in its middle: what names of nodes and VMs differ in is at their beginning and at their end."""
    if len(text) <= width:
        return text
    tail = (width - 1) // 3
    return text[: width - 1 - tail] + _ELLIPSIS + text[len(text) - tail :]
