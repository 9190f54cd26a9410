"""Kubernetes quantities of bytes, and percentages, as users write them."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

_SUFFIXES = {
    "": 1,
    **{suffix: 1024**power for power, suffix in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), start=1)},
    **{suffix: 1000**power for power, suffix in enumerate(("k", "M", "G", "T", "P", "E"), start=1)},
}
_UNIT = "([KMGTPE]i|[kMGTPE]|[eE][+]?[0-9]{1,2})"
QUANTITY = f"^([0-9]+{_UNIT}?|[0-9]*[.][0-9]+{_UNIT})$"
"""Of what Kubernetes reads as a quantity, that which can be meant for bytes: a fraction of something larger."""
PERCENTAGE = "^(100|[1-9]?[0-9])%$"
COUNT = "^[1-9][0-9]{0,3}$"


def parse_quantity(value: str | int) -> int:
    """Bytes of a quantity such as "2Gi", "1500M", "1.5Gi", "1e9" or 1073741824; rounded up, as Kubernetes does.

    Raises:
        ValueError: it is not a quantity, or is negative.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if not isinstance(value, str) or re.fullmatch(QUANTITY, value) is None:
        raise ValueError(f"{value!r} is not a quantity of bytes such as 2Gi or 1500M")
    suffix = value.lstrip("0123456789.")
    number, factor = value.removesuffix(suffix), _SUFFIXES.get(suffix)
    return math.ceil(Decimal(value) if factor is None else Decimal(number) * factor)


def format_quantity(size: int) -> str:
    """The canonical quantity of ``size`` bytes: the largest binary suffix that leaves a whole number."""
    for suffix in ("Ei", "Pi", "Ti", "Gi", "Mi", "Ki"):
        if size and size % _SUFFIXES[suffix] == 0:
            return f"{size // _SUFFIXES[suffix]}{suffix}"
    return str(size)


def parse_amount(value: str | int) -> tuple[int | None, int | None]:
    """A quantity or a percentage as (bytes, None) or (None, percent).

    Raises:
        ValueError: it is neither.
    """
    if isinstance(value, str) and value.endswith("%"):
        if re.fullmatch(PERCENTAGE, value) is None:
            raise ValueError(f"{value!r} is not a percentage from 0% to 100%")
        return None, int(value[:-1])
    return parse_quantity(value), None


def parse_count(value: str | int) -> tuple[int | None, int | None]:
    """A number of processors or a percentage as (count, None) or (None, percent).

    Raises:
        ValueError: it is neither.
    """
    if isinstance(value, str) and value.endswith("%"):
        return parse_amount(value)
    if re.fullmatch(COUNT, str(value)) is None:
        raise ValueError(f"{value!r} is not a whole number of processors such as 2")
    return int(value), None


def _check_amount(value: Any) -> str:
    parse_amount(value)
    return str(value)


def _check_count(value: Any) -> str:
    parse_count(value)
    return str(value)


QUANTITY_SCHEMA = {
    "x-kubernetes-int-or-string": True,
    "anyOf": [{"type": "integer"}, {"type": "string"}],
    "maxLength": 32,
}

Quantity = Annotated[
    int,
    BeforeValidator(parse_quantity),
    PlainSerializer(format_quantity, return_type=str),
    WithJsonSchema(QUANTITY_SCHEMA),
]
"""Bytes in Python, a canonical quantity string on the wire."""

Amount = Annotated[str, BeforeValidator(_check_amount), WithJsonSchema(QUANTITY_SCHEMA)]
"""A quantity or a percentage, kept as the user wrote it; ``parse_amount`` reads it."""

Count = Annotated[str, BeforeValidator(_check_count), WithJsonSchema(QUANTITY_SCHEMA)]
"""A number of processors or a percentage, kept as the user wrote it; ``parse_count`` reads it."""
