"""Tables: aligned, one word a cell, and as wide as the terminal at most."""

from __future__ import annotations

import pytest

from kubeballoon.cli.output import format_bytes
from kubeballoon.cli.table import Cell, Column, layout, name, number, shorten

GIB = 1 << 30
COLUMNS = [name("NODE"), Column("STATE"), number("TOTAL", 2), number("SIZE"), number("CPU%", 1)]
ROWS = [
    [Cell(text) for text in row]
    for row in (
        ("worker-001.rack1.prod.example.net", "Ample", "184Gi", "1.0Gi", "51%"),
        ("worker-022.rack2.prod.example.net", "Scarce", "92.5Gi", "276Gi", "7%"),
    )
]


def lines(width: int | None, *, headers: bool = True) -> list[str]:
    return ["".join(cell.text for cell in line).rstrip() for line in layout(COLUMNS, ROWS, width, headers=headers)]


def test_numbers_are_aligned_at_the_right() -> None:
    assert lines(None) == [
        "NODE                               STATE    TOTAL   SIZE  CPU%",
        "worker-001.rack1.prod.example.net  Ample    184Gi  1.0Gi   51%",
        "worker-022.rack2.prod.example.net  Scarce  92.5Gi  276Gi    7%",
    ]


def test_a_header_can_be_left_out() -> None:
    assert lines(None, headers=False)[0].startswith("worker-001")


@pytest.mark.parametrize("width", [61, 50, 46])
def test_names_are_shortened_before_a_column_is_left_out(width: int) -> None:
    header, first, _ = lines(width)
    assert len(first) <= width
    assert header.split() == ["NODE", "STATE", "TOTAL", "SIZE", "CPU%"]
    assert first.startswith("worker-001.rack1 ")


def test_the_least_important_column_is_left_out_first() -> None:
    assert lines(40)[0].split() == ["NODE", "STATE", "SIZE", "CPU%"]
    assert lines(32)[0].split() == ["NODE", "STATE", "SIZE"]


def test_what_cannot_be_left_out_stays() -> None:
    assert lines(5)[1].split() == ["worker-001.rack1", "Ample", "1.0Gi"]


def test_names_that_share_no_end_are_shortened_in_the_middle() -> None:
    rows = [[Cell(f"{each}-a-very-long-name-{each}")] for each in ("first", "second")]
    assert ["".join(cell.text for cell in line) for line in layout([name("VM")], rows, 16, headers=False)] == [
        "first-a-ve…first",
        "second-a-v…econd",
    ]


def test_a_shortened_name_keeps_both_of_its_ends() -> None:
    assert shorten("worker-001.rack1", 12) == "worker-0…ck1"
    assert shorten("worker-1", 12) == "worker-1"


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (None, "-"),
        (0, "0"),
        (512, "512"),
        (1 << 20, "1Mi"),
        (1023 << 20, "1023Mi"),
        (GIB, "1.0Gi"),
        (GIB * 3 // 2, "1.5Gi"),
        (812 * GIB, "812Gi"),
        (1800 * GIB, "1.8Ti"),
        (-2 * GIB, "-2.0Gi"),
    ],
)
def test_an_amount_of_memory_is_one_word(amount: int | None, text: str) -> None:
    assert format_bytes(amount) == text
