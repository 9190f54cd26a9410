"""UNIX sockets behind paths of any length."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LONGEST_PATH = 107
"""Bytes of a path that connect(2) takes on Linux."""


@contextmanager
def short_path(path: Path) -> Iterator[str]:
    """A path by which this process can use a socket for now, however long its own path is."""
    if len(os.fsencode(path)) <= LONGEST_PATH:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def listen(path: Path) -> socket.socket:
    """A new socket that listens at a path."""
    listener = socket.socket(socket.AF_UNIX)
    with short_path(path) as usable:
        listener.bind(usable)
    listener.listen(64)
    return listener
