"""This module holds command-line options that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def checked(parse: Callable[[str], T], name: str) -> Callable[[str], T]:
    """Make an argparse type of a parser, whose ValueError becomes the message to the user; ``name`` is the type's."""

    def convert(text: str) -> T:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    convert.__name__ = name
    return convert


def at_least_a_second(text: str) -> float:
    """Read a duration of at least a second as seconds.

    Raises:
        ValueError: the text is not a duration, or is shorter than a second.
    """
    from kubeballoon.api.duration import parse_duration  # noqa: PLC0415 - with pydantic, which commands may do without

    seconds = parse_duration(text)
    if seconds < 1:
        raise ValueError(f"{text!r} is less than a second")
    return seconds


def add_client_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how to reach the API server."""
    parser.add_argument(
        "--kubeconfig", type=Path, help="how to reach the API server (default: $KUBECONFIG, else the pod's own account)"
    )


def add_serving_options(parser: argparse.ArgumentParser) -> None:
    """Add the option that says where /healthz, /readyz and /metrics are served."""
    parser.add_argument(
        "--listen",
        type=checked(_address, "address"),
        default=("127.0.0.1", 0),
        metavar="HOST:PORT",
        help="serve /healthz, /readyz and /metrics here, without HOST on every address (default: nowhere)",
    )


def _address(text: str) -> tuple[str | None, int]:
    """Read HOST:PORT; the host is None if the text has none, which means every address.

    Raises:
        ValueError: the text is not HOST:PORT; an IPv6 host needs brackets.
    """
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not port.isdigit() or (":" in host and not bracketed):
        raise ValueError(f"{text!r} is not HOST:PORT, as in :8080, 127.0.0.1:8080 or [::1]:8080")
    return (host[1:-1] if bracketed else host) or None, int(port)
