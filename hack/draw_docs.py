"""This script draws docs/one-vm.svg, the amounts of one VM's memory; --check says instead whether the file is stale."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

PICTURE = Path(__file__).resolve().parents[1] / "docs/one-vm.svg"

_WIDTH, _HEIGHT = 900, 330
_LEFT, _PER_GIB, _TOP, _BAR = 20, 105, 96, 64
_INK, _GREY = "#37474f", "#90a4ae"
# What a VM of 8 GiB may look like; each part is a name, its size in GiB, and its colour.
_PARTS = (
    ("need", 2.5, "#00796b"),
    ("headroom", 1.0, "#4db6ac"),
    ("idle", 1.5, "#b2dfdb"),
    ("reclaimed by the balloon", 3.0, "#eceff1"),
)
_MINIMUM, _RESIDENT = 2.0, 4.5
# Each span of several parts: its text, its end in GiB, and how far from the bar it is drawn; above it if negative.
_SPANS = (
    ("demand", 3.5, 22),
    ("resident: what the node has really spent", _RESIDENT, 58),
    ("actual: the most that the guest can use now", 5.0, 94),
    ("size: what the VM was given", 8.0, 130),
)


def draw() -> str:
    """Return the picture as SVG."""
    shapes = [f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>']
    start = 0.0
    for name, size, colour in _PARTS:
        text = "#ffffff" if name == "need" else _INK
        place = f'x="{_x(start):g}" y="{_TOP}" width="{size * _PER_GIB:g}" height="{_BAR}"'
        shapes.append(f'<rect {place} fill="{colour}" stroke="#ffffff"/>')
        shapes.append(_text(_x(start + size / 2), _TOP + _BAR / 2 + 5, name, anchor="middle", colour=text))
        start += size
    shapes += [shape for text, end, distance in _SPANS for shape in _span(text, end, _TOP + _BAR + distance)]
    shapes += _mark(_MINIMUM, "min: the balloon never goes below")
    body = "\n".join(shapes)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="The amounts of one VM\'s memory" font-family="sans-serif" font-size="13">\n{body}\n</svg>\n'
    )


def _x(gib: float) -> float:
    return _LEFT + gib * _PER_GIB


def _text(x: float, y: float, text: str, *, anchor: str = "start", colour: str = _INK) -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" fill="{colour}">{text}</text>'


def _span(text: str, end: float, y: float) -> list[str]:
    """Draw a line from the bar's beginning to ``end``, with its text below the line."""
    line = f"M{_x(0):g} {y - 5:g}v10M{_x(0):g} {y:g}H{_x(end):g}M{_x(end):g} {y - 5:g}v10"
    return [
        f'<path d="{line}" stroke="{_GREY}" fill="none"/>',
        _text(_x(0) + 8, y + 17, text),
    ]


def _mark(at: float, text: str) -> list[str]:
    """Draw a line across the bar, with its text above the bar."""
    return [
        f'<path d="M{_x(at):g} {_TOP - 16}V{_TOP + _BAR}" stroke="#c62828" stroke-width="2" stroke-dasharray="5 3"/>',
        _text(_x(at) + 6, _TOP - 22, text, colour="#c62828"),
    ]


def main() -> int:
    """Write the file, or check it; the exit status of a check is 1 when the file is stale."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail when the file is stale")
    if parser.parse_args().check:
        fresh = PICTURE.exists() and PICTURE.read_text() == draw()
        if not fresh:
            print(f"{PICTURE} is stale: run `make generate`", file=sys.stderr)
        return 0 if fresh else 1
    PICTURE.write_text(draw())
    return 0


if __name__ == "__main__":
    sys.exit(main())
