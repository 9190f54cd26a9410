"""This module takes in text that a guest or a launcher pod wrote: bounded, and parsed into what is needed of it."""

from __future__ import annotations

import contextlib
from typing import TypeVar

from pydantic import TypeAdapter

T = TypeVar("T")


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
