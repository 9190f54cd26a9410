"""How sizes and lists are written for people."""

from __future__ import annotations

import pytest

from kubeballoon.core.formatting import counted, human, listed, printable
from kubeballoon.core.units import GIB, MIB


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1536, "1.5 KiB"),
        (9472, "9.25 KiB"),
        (3 << 30, "3 GiB"),
        (10 * MIB + MIB // 4, "10.2 MiB"),
        (99 * MIB + MIB // 2, "99.5 MiB"),
        (100 * MIB + MIB // 2, "100 MiB"),
        (-(1 << 40), "-1 TiB"),
    ],
)
def test_a_size_has_at_most_three_digits(size: int, text: str) -> None:
    assert human(size) == text


@pytest.mark.parametrize(
    ("items", "text"), [("", ""), ("a", "a"), ("abcde", "a, b, c, d, e"), ("abcdefg", "a, b, c, d, e and 2 more")]
)
def test_of_many_only_the_first_are_listed(items: str, text: str) -> None:
    assert listed(items) == text
    assert listed(items, "; ") == text.replace(",", ";")


def test_numbers_are_written_for_people() -> None:
    assert [human(size) for size in (0, 1023, 3 * MIB // 2, GIB, 5 * GIB + 100 * MIB, 123 * GIB)] == [
        "0 bytes",
        "1023 bytes",
        "1.5 MiB",
        "1 GiB",
        "5.1 GiB",
        "123 GiB",
    ]


@pytest.mark.parametrize(
    ("text", "line"), [("plain, ü", "plain, ü"), ("a\tb\nc", "a b c"), ("red\x1b[31m", "red[31m"), ("\0 \u202e", " ")]
)
def test_a_line_keeps_nothing_that_is_not_printable(text: str, line: str) -> None:
    assert printable(text) == line


@pytest.mark.parametrize(("number", "text"), [(0, "0 nodes"), (1, "1 node"), (2, "2 nodes")])
def test_one_thing_is_counted_in_the_singular(number: int, text: str) -> None:
    assert counted(number, "node") == text
