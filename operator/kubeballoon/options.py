"""Options that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from kubeballoon.api.duration import parse_duration

T = TypeVar("T")


def checked(parse: Callable[[str], T], name: str) -> Callable[[str], T]:
    """An argparse type whose error is the parser's own message."""

    def convert(text: str) -> T:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    convert.__name__ = name
    return convert


def at_least_a_second(text: str) -> float:
    """A duration in seconds that something can be divided by.

    Raises:
        ValueError: it is none, or shorter.
    """
    seconds = parse_duration(text)
    if seconds < 1:
        raise ValueError(f"{text!r} is less than a second")
    return seconds


def add_client_options(parser: argparse.ArgumentParser) -> None:
    """How to reach the cluster."""
    parser.add_argument(
        "--kubeconfig", type=Path, help="how to reach the API server (default: $KUBECONFIG, else the pod's own account)"
    )


def add_serving_options(parser: argparse.ArgumentParser) -> None:
    """Where /healthz, /readyz and /metrics are served."""
    parser.add_argument(
        "--listen",
        type=checked(_address, "address"),
        default=("127.0.0.1", 0),
        metavar="HOST:PORT",
        help="serve /healthz, /readyz and /metrics here, without HOST on every address (default: nowhere)",
    )


def _address(text: str) -> tuple[str | None, int]:
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not port.isdigit() or (":" in host and not bracketed):
        raise ValueError(f"{text!r} is not HOST:PORT, as in :8080, 127.0.0.1:8080 or [::1]:8080")
    return (host[1:-1] if bracketed else host) or None, int(port)
