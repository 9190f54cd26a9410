"""This module writes texts for people: sizes with units, and long lists cut short."""

from __future__ import annotations

from collections.abc import Sequence

_LISTED_ITEMS = 5  # more would make a log line or a condition's message hard to read
_UNITS = (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))


def human(size: float) -> str:
    """Write ``size`` bytes with a binary unit and at most three significant digits: "1.5 GiB"."""
    for unit, factor in _UNITS:
        if abs(size) >= factor:
            value = size / factor
            digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2  # noqa: PLR2004 - three digits
            text = f"{value:.{digits}f}"
            return f"{text.rstrip('0').rstrip('.') if '.' in text else text} {unit}"
    return f"{size:.0f} bytes"


def printable(text: str) -> str:
    """Leave out of a line what is not printable, such as escape sequences' beginnings; white space becomes a blank."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else " " if each.isspace() else "" for each in text)


def counted(number: int, noun: str) -> str:
    """Write how many there are of a thing: "1 node", "2 nodes"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def listed(items: Sequence[object], separator: str = ", ") -> str:
    """Write the first items in one line, and how many more there are: "a, b, c, d, e and 2 more"."""
    first = separator.join(map(str, items[:_LISTED_ITEMS]))
    return first if len(items) <= _LISTED_ITEMS else f"{first} and {len(items) - _LISTED_ITEMS} more"
