"""Connects to and listens on UNIX sockets whose paths may be longer than the kernel accepts."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LONGEST_PATH = 107
"""The longest path, in bytes, that connect(2) accepts on Linux."""


@contextmanager
def short_path(path: Path) -> Iterator[str]:
    """Yield a path of a socket that is short enough for connect(2) and bind(2), and valid inside the context only."""
    if len(os.fsencode(path)) <= LONGEST_PATH:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def listen(path: Path) -> socket.socket:
    """Create a socket that listens at a path of any length."""
    listener = socket.socket(socket.AF_UNIX)
    with short_path(path) as usable:
        listener.bind(usable)
    listener.listen(64)
    return listener
