"""Quantities, durations, selectors, conditions: what users write, and what they mean."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from kubeballoon.api.duration import format_duration, parse_duration
from kubeballoon.api.meta import Condition, ConditionStatus, Time, set_conditions
from kubeballoon.api.quantity import format_quantity, parse_amount, parse_quantity
from kubeballoon.api.selector import LabelSelector

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@given(st.integers(0, 1 << 62))
def test_a_quantity_is_exact_to_the_byte(size: int) -> None:
    assert parse_quantity(format_quantity(size)) == size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2Gi", 2 << 30),
        ("1.5Gi", 3 << 29),
        ("1500M", 1_500_000_000),
        ("1e3", 1000),
        ("1E", 10**18),
        ("0", 0),
        (".5Ki", 512),
        ("100Ti", 100 << 40),
        ("1E+3", 1000),
        ("0.1Ki", 103),
    ],
)
def test_quantities_are_written_as_in_kubernetes(text: str, size: int) -> None:
    assert parse_quantity(text) == size


@pytest.mark.parametrize(
    "text", ["", "2 Gi", "-1Gi", "+1Gi", "2gi", "1.5", "1.", "Gi", "1e-3", "1e003", "50%", "1Gi\n"]
)
def test_a_text_that_is_not_a_quantity_of_bytes_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="quantity"):
        parse_quantity(text)


@pytest.mark.parametrize(("size", "text"), [(3 << 30, "3Gi"), (3221225473, "3221225473"), (0, "0"), (1 << 20, "1Mi")])
def test_quantities_are_canonical_when_written(size: int, text: str) -> None:
    assert format_quantity(size) == text


def test_amounts_are_quantities_or_percentages() -> None:
    assert parse_amount("50%") == (None, 50)
    assert parse_amount("1Gi") == (1 << 30, None)
    for wrong in ("101%", "-1%", "05%", "5.5%"):
        with pytest.raises(ValueError, match="percentage"):
            parse_amount(wrong)


@pytest.mark.parametrize(("text", "seconds"), [("10s", 10), ("1m30s", 90), ("500ms", 0.5), ("2h", 7200), ("1.5s", 1.5)])
def test_durations_are_written_as_in_go(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds
    assert parse_duration(format_duration(seconds)) == seconds


@pytest.mark.parametrize("text", ["", "10", "s", "10 s", "1d", "-1s"])
def test_a_text_that_is_not_a_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration(text)


TIME: TypeAdapter[datetime] = TypeAdapter(Time)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("2026-01-01T01:00:00+01:00", "2026-01-01T00:00:00Z"),
        ("2026-01-01T00:00:00", "2026-01-01T00:00:00Z"),
        ("9999-12-31T23:59:59.9Z", "9999-12-31T23:59:59Z"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"),
    ],
)
def test_every_time_that_is_read_can_be_compared_and_written(text: str, written: str) -> None:
    moment = TIME.validate_python(text)
    assert isinstance((datetime.now(UTC) - moment).total_seconds(), float)
    assert TIME.dump_python(moment) == written


@pytest.mark.parametrize("text", ["9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59"])
def test_a_time_whose_offset_leads_out_of_the_calendar_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match="no such time in UTC"):
        TIME.validate_python(text)


@pytest.mark.parametrize(
    ("selector", "labels", "selected"),
    [
        ({}, {}, True),
        ({"matchLabels": {"a": "1"}}, {"a": "1", "b": "2"}, True),
        ({"matchLabels": {"a": "1"}}, {"a": "2"}, False),
        ({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1", "2"]}]}, {"a": "2"}, True),
        ({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1"]}]}, {}, False),
        ({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}, {}, True),
        ({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}, {"a": "1"}, False),
        ({"matchExpressions": [{"key": "a", "operator": "Exists"}]}, {"a": ""}, True),
        ({"matchExpressions": [{"key": "a", "operator": "DoesNotExist"}]}, {"a": ""}, False),
        ({"matchLabels": {"a": "1"}, "matchExpressions": [{"key": "b", "operator": "Exists"}]}, {"a": "1"}, False),
    ],
)
def test_selectors_select_as_in_kubernetes(
    selector: dict[str, object], labels: dict[str, str], *, selected: bool
) -> None:
    assert LabelSelector.model_validate(selector).matches(labels) is selected


def condition(status: ConditionStatus, message: str, at: datetime) -> Condition:
    return Condition(type="Ready", status=status, reason="Because", message=message, last_transition_time=at)


def test_a_condition_keeps_its_transition_time_until_its_status_changes() -> None:
    later = NOW + timedelta(hours=1)
    first = condition(ConditionStatus.TRUE, "one", NOW)
    (kept,) = set_conditions([first], [condition(ConditionStatus.TRUE, "two", later)])
    assert (kept.message, kept.last_transition_time) == ("two", NOW)
    (changed,) = set_conditions([first], [condition(ConditionStatus.FALSE, "three", later)])
    assert changed.last_transition_time == later


def test_a_condition_s_message_is_bounded() -> None:
    (short,) = set_conditions([], [condition(ConditionStatus.TRUE, "x" * 5000, NOW)])
    assert len(short.message) == 1024
