"""This module reads and writes quantities of bytes, numbers of processors and percentages as users write them."""

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
"""The Kubernetes quantities that can mean bytes: a fraction needs a suffix of something larger than a byte.

Python and the API server's CEL rules use this one pattern, so that both accept the same texts.
"""
PERCENTAGE = "^(100|[1-9]?[0-9])%$"
COUNT = "^[1-9][0-9]{0,3}$"
POD_REQUEST = "PodRequest"
"""The word for what a VM's pod has requested from the scheduler for the guest."""


def parse_quantity(value: str | int) -> int:
    """Read a quantity such as "2Gi", "1500M", "1.5Gi", "1e9" or 1073741824 as bytes, rounded up as Kubernetes does.

    Raises:
        ValueError: the value is not a quantity of bytes, or is negative.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str) and value.isascii() and value.isdecimal():
        return int(value)  # most of a report's figures: the pattern would cost several times as much
    if not isinstance(value, str) or re.fullmatch(QUANTITY, value) is None:
        raise ValueError(f"{value!r} is not a quantity of bytes such as 2Gi or 1500M")
    suffix = value.lstrip("0123456789.")
    number, factor = value.removesuffix(suffix), _SUFFIXES.get(suffix)
    return math.ceil(Decimal(value) if factor is None else Decimal(number) * factor)


def format_quantity(size: int) -> str:
    """Write ``size`` bytes as a canonical quantity: with the largest binary suffix that leaves a whole number."""
    for suffix in ("Ei", "Pi", "Ti", "Gi", "Mi", "Ki"):
        if size and size % _SUFFIXES[suffix] == 0:
            return f"{size // _SUFFIXES[suffix]}{suffix}"
    return str(size)


def parse_amount(value: str | int) -> tuple[int | None, int | None]:
    """Read a quantity as (bytes, None), or a percentage as (None, percent).

    Raises:
        ValueError: the value is neither.
    """
    if isinstance(value, str) and value.endswith("%"):
        if re.fullmatch(PERCENTAGE, value) is None:
            raise ValueError(f"{value!r} is not a percentage from 0% to 100%")
        return None, int(value[:-1])
    return parse_quantity(value), None


def parse_minimum(value: str | int) -> tuple[int | None, int | None, bool]:
    """Read a guarantee as (bytes, percent, whether it is what the VM's pod requests), of which one is set.

    Raises:
        ValueError: the value is none of these.
    """
    return (None, None, True) if value == POD_REQUEST else (*parse_amount(value), False)


def parse_count(value: str | int) -> tuple[int | None, int | None]:
    """Read a number of processors as (count, None), or a percentage as (None, percent).

    Raises:
        ValueError: the value is neither.
    """
    if isinstance(value, str) and value.endswith("%"):
        return parse_amount(value)
    if re.fullmatch(COUNT, str(value)) is None:
        raise ValueError(f"{value!r} is not a whole number of processors such as 2")
    return int(value), None


def _check_amount(value: Any) -> str:
    parse_amount(value)
    return str(value)


def _check_minimum(value: Any) -> str:
    parse_minimum(value)
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
"""A number of bytes; on the wire a canonical quantity."""

Bytes = Annotated[
    int,
    BeforeValidator(parse_quantity),
    PlainSerializer(format_quantity, return_type=str),
    # Agents always write strings: an API server that tries an integer first makes an error for each figure.
    WithJsonSchema({"type": "string", "maxLength": 32}),
]
"""A number of bytes in an agent's report; on the wire a canonical quantity, and always a string."""

AmountText = Annotated[str, BeforeValidator(_check_amount), WithJsonSchema(QUANTITY_SCHEMA)]
"""A quantity or a percentage in a policy, kept as the user wrote it; ``parse_amount`` reads it."""

MinimumText = Annotated[str, BeforeValidator(_check_minimum), WithJsonSchema(QUANTITY_SCHEMA)]
"""A quantity, a percentage or ``PodRequest`` in a policy, kept as the user wrote it; ``parse_minimum`` reads it."""

CountText = Annotated[str, BeforeValidator(_check_count), WithJsonSchema(QUANTITY_SCHEMA)]
"""A number of processors or a percentage in a policy, kept as the user wrote it; ``parse_count`` reads it."""
