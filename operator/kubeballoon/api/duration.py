"""This module reads and writes durations as Go and Kubernetes do: "1m30s"."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, WithJsonSchema

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)")


def parse_duration(text: str) -> float:
    """Read a duration such as "10s", "1m30s" or "500ms" as seconds.

    Raises:
        ValueError: the text is not a duration.
    """
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{text!r} is not a duration such as 10s, 1m30s or 500ms")
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def format_duration(seconds: float) -> str:
    """Write seconds as the shortest duration, rounded to a millisecond: "1m30s"."""
    rest = round(seconds * 1000)
    text = ""
    for unit, factor in (("h", 3_600_000), ("m", 60_000)):
        count, rest = divmod(rest, factor)
        text += f"{count}{unit}" if count else ""
    if rest or not text:
        text += f"{rest / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    return text


def _check(value: str) -> str:
    parse_duration(value)
    return value


Duration = Annotated[str, AfterValidator(_check), WithJsonSchema({"type": "string", "maxLength": 32})]
"""A duration in a policy, kept as the user wrote it; ``parse_duration`` turns it into seconds."""
