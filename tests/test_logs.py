"""The log is text for people, or JSON for what collects logs."""

from __future__ import annotations

import json
import logging
import subprocess
import sys

import pytest

from kubeballoon.logs import JSONFormatter


def record(message: str, *values: object, **fields: object) -> logging.LogRecord:
    made = logging.LogRecord("kubeballoon.agent", logging.WARNING, __file__, 1, message, values, None)
    made.created = 0.0
    vars(made).update(fields)
    return made


def test_a_message_is_one_json_object_in_one_line() -> None:
    line = JSONFormatter().format(record("%s: driver\nstuck", "shop_a", vm="shop/a", policy="default"))
    assert "\n" not in line
    assert json.loads(line) == {
        "time": "1970-01-01T00:00:00.000+00:00",
        "level": "WARNING",
        "logger": "kubeballoon.agent",
        "message": "shop_a: driver\nstuck",
        "vm": "shop/a",
        "policy": "default",
    }


def test_an_agents_messages_are_about_its_node_unless_they_name_another() -> None:
    formatter = JSONFormatter("worker-7")
    assert json.loads(formatter.format(record("x")))["node"] == "worker-7"
    assert json.loads(formatter.format(record("x", node="worker-8")))["node"] == "worker-8"


def test_a_field_that_is_not_known_is_left_out() -> None:
    assert "policy" not in json.loads(JSONFormatter().format(record("x", policy=None)))


def test_an_exception_is_a_field() -> None:
    made = record("failed")
    error = ValueError("broken")
    made.exc_info = (ValueError, error, error.__traceback__)
    assert json.loads(JSONFormatter().format(made))["exception"].endswith("ValueError: broken")


@pytest.mark.parametrize("style", ["text", "json"])
def test_the_command_writes_its_log_as_it_is_told(style: str) -> None:
    code = f"from kubeballoon import logs; logs.set_up('INFO', {style!r}); import logging; logging.info('hello')"
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stderr
    assert (json.loads(said)["message"] if style == "json" else said.split()[-1]) == "hello"
