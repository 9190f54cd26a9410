"""This module makes the CEL rules by which the API server refuses a policy, each with a message for its user.

Each rule has a twin in Python, ``Rule.holds``, for policies in files. One rule only checks each value, so that one
mistake gives one message: a rule that compares two values passes where either of them is malformed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from kubeballoon.api.quantity import (
    COUNT,
    PERCENTAGE,
    POD_REQUEST,
    QUANTITY,
    parse_amount,
    parse_count,
    parse_quantity,
)

_MOST = "1Pi"  # no VM has more memory
_DURATION = "^([0-9]+([.][0-9]+)?(ms|s|m|h))+$"


@dataclass(frozen=True, slots=True)
class Rule:
    """A Rule is one entry of x-kubernetes-validations.

    Attributes:
        rule: the CEL expression; ``self`` is the object that the rule belongs to.
        message: what the user reads when the rule does not hold.
        field: the field that a violation is reported at; None for the object itself.
        holds: the same rule in Python: whether an object, as the user wrote it, keeps the rule.
    """

    rule: str
    message: str
    field: str | None = None
    holds: Callable[[Mapping[str, Any]], bool] = lambda _: True

    def to_wire(self) -> dict[str, str]:
        """Write the rule as an entry of x-kubernetes-validations."""
        wire = {"rule": self.rule, "message": self.message}
        return wire if self.field is None else {**wire, "fieldPath": f".{self.field}"}


def amount(field: str) -> Rule:
    """Require a quantity of bytes, or a percentage from 0% to 100%, where the field is given."""
    return Rule(
        f"!has(self.{field}) || {_is_percentage(field)} || {_is_quantity(field)}",
        f"{field} must be a quantity of bytes such as 1.5Gi, or a percentage from 0% to 100%",
        field,
        lambda written: field not in written or _amount(written[field]) is not None,
    )


def minimum(field: str) -> Rule:
    """Require what ``amount`` does, or the word for what the VM's pod has requested, where the field is given."""
    plain = amount(field)
    return Rule(
        f"{plain.rule} || {_text(field)} == '{POD_REQUEST}'",
        f"{plain.message}, or {POD_REQUEST}",
        field,
        lambda written: written.get(field) == POD_REQUEST or plain.holds(written),
    )


def plausible(field: str, least: str = "1Mi", *, may_be_zero: bool = True) -> Rule:
    """Require that an amount is one that a VM can be meant by: a percent sign that was forgotten makes it bytes.

    Args:
        field: the field of the amount.
        least: the smallest quantity.
        may_be_zero: whether nothing at all can be meant, too.
    """
    zero = f"quantity({_text(field)}).compareTo(quantity('0')) == 0"
    right, wrong, from_one = _is_between(field, least), "", ""
    if may_be_zero:
        right = f"{zero} || {right}"
    else:
        wrong, from_one = f"({_is_percentage(field)} && {_percent(field)} == 0) || ", " from 1%"
    return Rule(
        f"!has(self.{field}) || !({wrong}({_is_quantity(field)} && !({right})))",
        f"{field} must be a percentage{from_one} such as 25%, or a quantity from {least} to {_MOST} such as 2Gi: "
        "a number without unit is in bytes",
        field,
        lambda written: _is_plausible(_amount(written.get(field)), parse_quantity(least), may_be_zero=may_be_zero),
    )


def positive_quantity(field: str) -> Rule:
    """Require a quantity of bytes from 1Mi, where the field is given: as bytes in a second, or beyond a threshold."""
    return Rule(
        f"!has(self.{field}) || ({_is_quantity(field)} && {_is_between(field, '1Mi')})",
        f"{field} must be a positive quantity of bytes such as 256Mi, from 1Mi to {_MOST}",
        field,
        lambda written: field not in written or _is_positive_quantity(written[field]),
    )


def count(field: str, things: str = "processors") -> Rule:
    """Require a number of things from 1, or a percentage from 0% to 100%, where the field is given."""
    return Rule(
        f"!has(self.{field}) || {_is_percentage(field)} || {_is_count(field)}",
        f"{field} must be a whole number of {things} such as 2, or a percentage from 0% to 100%",
        field,
        lambda written: field not in written or _is_count_or_percentage(written[field]),
    )


def ordered(lower: str, upper: str) -> Rule:
    """Require that one number does not exceed another."""
    return Rule(
        f"self.{lower} <= self.{upper}",
        f"{lower} must not exceed {upper}",
        lower,
        lambda written: _numbers_in_order(written.get(lower), written.get(upper)),
    )


def decreasing(*fields: str) -> Rule:
    """Require that each of several amounts is less than the one before: all percentages, or all quantities."""
    pairs = list(pairwise(fields))
    percentages = " && ".join(_is_percentage(each) for each in fields)
    quantities = " && ".join(_is_quantity(each) for each in fields)
    amounts = " && ".join(f"({_is_percentage(each)} || {_is_quantity(each)})" for each in fields)
    percents_fall = " && ".join(f"{_percent(upper)} > {_percent(lower)}" for upper, lower in pairs)
    sizes_fall = " && ".join(
        f"quantity({_text(upper)}).compareTo(quantity({_text(lower)})) > 0" for upper, lower in pairs
    )
    return Rule(
        f"!({amounts}) || (({percentages}) ? ({percents_fall}) : ({quantities}) ? ({sizes_fall}) : false)",
        f"{', '.join(fields[:-1])} and {fields[-1]} must all be percentages, or all be quantities, each less than the "
        "one before",
        fields[0],
        lambda written: _decrease([_amount(written.get(field)) for field in fields]),
    )


def duration(field: str) -> Rule:
    """Require a duration as Go writes it where the field is given."""
    return Rule(
        f"!has(self.{field}) || self.{field}.matches('{_DURATION}')",
        f"{field} must be a duration such as 5m, 90s or 1h30m",
        field,
        # Anything but a text is the schema's affair.
        lambda written: not isinstance(written.get(field), str) or re.fullmatch(_DURATION, written[field]) is not None,
    )


def not_above(lower: str, upper: str) -> Rule:
    """Require that one amount does not exceed another where both are percentages, or both are quantities.

    A percentage and a quantity can only be compared on a VM of a known size.
    """
    percentages = f"{_is_percentage(lower)} && {_is_percentage(upper)}"
    quantities = f"{_is_quantity(lower)} && {_is_quantity(upper)}"
    return Rule(
        f"!has(self.{lower}) || !has(self.{upper}) || "
        f"(({percentages}) ? {_percent(lower)} <= {_percent(upper)} : ({quantities}) ? "
        f"quantity({_text(lower)}).compareTo(quantity({_text(upper)})) <= 0 : true)",
        f"{lower} must not exceed {upper}",
        lower,
        lambda written: _in_order(_amount(written.get(lower)), _amount(written.get(upper))),
    )


def _text(field: str) -> str:
    return f"string(self.{field})"


def _percent(field: str) -> str:
    return f"int({_text(field)}.replace('%', ''))"


def _is_percentage(field: str) -> str:
    return f"{_text(field)}.matches('{PERCENTAGE}')"


def _is_quantity(field: str) -> str:
    return f"{_text(field)}.matches('{QUANTITY}')"


def _is_between(field: str, least: str) -> str:
    quantity = f"quantity({_text(field)})"
    return f"{quantity}.compareTo(quantity('{least}')) >= 0 && {quantity}.compareTo(quantity('{_MOST}')) <= 0"


def _is_count(field: str) -> str:
    return f"{_text(field)}.matches('{COUNT}')"


def _amount(value: Any) -> tuple[int | None, int | None] | None:
    """Read a quantity as (bytes, None), a percentage as (None, percent), and anything else as None."""
    try:
        return parse_amount(value)
    except ValueError:
        return None


def _is_count_or_percentage(value: Any) -> bool:
    try:
        parse_count(value)
    except ValueError:
        return False
    return True


def _is_positive_quantity(value: Any) -> bool:
    try:
        return parse_quantity("1Mi") <= parse_quantity(value) <= parse_quantity(_MOST)
    except ValueError:
        return False


def _is_plausible(amount: tuple[int | None, int | None] | None, least: int, *, may_be_zero: bool) -> bool:
    if amount is None:
        return True
    if 0 in amount:
        return may_be_zero
    size, _ = amount
    return size is None or least <= size <= parse_quantity(_MOST)


def _numbers_in_order(lower: Any, upper: Any) -> bool:
    return not (isinstance(lower, int) and isinstance(upper, int)) or lower <= upper


def _decrease(amounts: Sequence[tuple[int | None, int | None] | None]) -> bool:
    known = [each for each in amounts if each is not None]
    if len(known) < len(amounts):
        return True
    columns = list(zip(*known, strict=True))  # first the quantities, then the percentages
    return any(
        all(upper is not None and lower is not None and upper > lower for upper, lower in pairwise(column))
        for column in columns
    )


def _in_order(lower: tuple[int | None, int | None] | None, upper: tuple[int | None, int | None] | None) -> bool:
    if lower is None or upper is None:
        return True
    return all(least is None or most is None or least <= most for least, most in zip(lower, upper, strict=True))
