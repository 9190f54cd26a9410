"""CEL rules: what the API server refuses, in words its user understands.

Each value is checked by one rule only, so that a mistake gives one message: a rule that compares two values passes
where either is malformed.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rule:
    """One entry of x-kubernetes-validations, relative to the object it stands on."""

    rule: str
    message: str
    field: str | None = None

    def to_wire(self) -> dict[str, str]:
        """JSON-ready."""
        wire = {"rule": self.rule, "message": self.message}
        return wire if self.field is None else {**wire, "fieldPath": f".{self.field}"}


def amount(field: str) -> Rule:
    """A whole, non-negative quantity of bytes, or a percentage from 0% to 100%."""
    return Rule(
        f"!has(self.{field}) || {_is_percentage(field)} || {_is_quantity(field)}",
        f"{field} must be a whole quantity of bytes such as 2Gi, or a percentage from 0% to 100%",
        field,
    )


def positive_quantity(field: str) -> Rule:
    """A whole, positive quantity of bytes."""
    return Rule(
        f"!has(self.{field}) || ({_is_quantity(field)} && quantity({_text(field)}).asInteger() > 0)",
        f"{field} must be a positive quantity of bytes such as 256Mi",
        field,
    )


def count(field: str) -> Rule:
    """A number of processors from 1, or a percentage from 0% to 100%."""
    return Rule(
        f"!has(self.{field}) || {_is_percentage(field)} || {_is_count(field)}",
        f"{field} must be a whole number of processors such as 2, or a percentage from 0% to 100%",
        field,
    )


def ordered(lower: str, upper: str) -> Rule:
    """Two plain numbers in order."""
    return Rule(f"self.{lower} <= self.{upper}", f"{lower} must not exceed {upper}", lower)


def duration(field: str) -> Rule:
    """A duration as Go writes it."""
    return Rule(
        f"!has(self.{field}) || self.{field}.matches('^([0-9]+([.][0-9]+)?(ms|s|m|h))+$')",
        f"{field} must be a duration such as 5m, 90s or 1h30m",
        field,
    )


def not_above(lower: str, upper: str) -> Rule:
    """Two amounts in order, where they can be compared: a percentage and a quantity meet only on a VM."""
    percentages = f"{_is_percentage(lower)} && {_is_percentage(upper)}"
    quantities = f"{_is_quantity(lower)} && {_is_quantity(upper)}"
    return Rule(
        f"!has(self.{lower}) || !has(self.{upper}) || "
        f"(({percentages}) ? {_percent(lower)} <= {_percent(upper)} : ({quantities}) ? "
        f"quantity({_text(lower)}).compareTo(quantity({_text(upper)})) <= 0 : true)",
        f"{lower} must not exceed {upper}",
        lower,
    )


def _text(field: str) -> str:
    return f"string(self.{field})"


def _percent(field: str) -> str:
    return f"int({_text(field)}.replace('%', ''))"


def _is_percentage(field: str) -> str:
    return f"{_text(field)}.matches('^(100|[1-9]?[0-9])%$')"


def _is_quantity(field: str) -> str:
    text = _text(field)
    return f"(isQuantity({text}) && quantity({text}).isInteger() && quantity({text}).asInteger() >= 0)"


def _is_count(field: str) -> str:
    return f"{_text(field)}.matches('^[1-9][0-9]{{0,3}}$')"
