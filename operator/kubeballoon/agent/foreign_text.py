"""This module takes in text that a guest, a launcher pod or a tenant wrote: bounded, printable, or parsed."""

from __future__ import annotations

import contextlib
from typing import TypeVar

from pydantic import TypeAdapter

from kubeballoon.core.formatting import printable

T = TypeVar("T")

LONGEST_LINE = 256  # characters of an error that a guest or a daemon wrote; libvirt's own are shorter


def one_line(text: str, longest: int = LONGEST_LINE) -> str:
    """Make text of another party fit for terminals, logs and reports: one line of printable characters.

    What steers a terminal, or turns the direction of writing, is dropped; what is longer than ``longest`` is cut.
    """
    return " ".join(printable(text[: 4 * longest]).split())[:longest]


def parse_json(text: str | bytes, form: TypeAdapter[T], longest: int) -> T:
    """Parse JSON into a form that keeps only the fields that are read.

    pydantic's parser refuses values that are nested more than 200 deep and numbers of more than 4300 digits.

    Args:
        text: what another party wrote.
        form: the type that is expected.
        longest: the length from which on the text is not looked at.

    Raises:
        ValueError: the text is longer, or is not JSON of that form; the error refers to no part of the text.
    """
    if len(text) > longest:
        raise ValueError(f"{len(text)} characters are more than {longest}")
    with contextlib.suppress(ValueError):
        return form.validate_json(text)
    # Raised out here, because pydantic's own error keeps what was parsed, and would be this one's context.
    raise ValueError("it has another form")
