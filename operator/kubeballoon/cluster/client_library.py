"""The client library, asynchronous, and only that.

The package ``kubernetes`` imports its synchronous half first, with a stack for HTTP and one for OAuth of its own: 7 MiB
that stay, in every agent, and are used by nothing. So the package itself is made here without what it would import;
whoever asks for the other half still gets it.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType

_PACKAGE = "kubernetes"


def _make_package() -> None:
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or _PACKAGE in sys.modules:
        return
    package = importlib.util.module_from_spec(spec)
    package.__dict__["__getattr__"] = _import_part
    sys.modules[_PACKAGE] = package


def _import_part(name: str) -> ModuleType:
    """A part of the package that nobody has imported yet."""
    try:
        return importlib.import_module(f"{_PACKAGE}.{name}")
    except ModuleNotFoundError as error:
        raise AttributeError(f"module {_PACKAGE!r} has no attribute {name!r}") from error


_make_package()

from kubernetes.aio import client, config  # noqa: E402 - the package has to be made before
from kubernetes.aio.config import ConfigException  # noqa: E402

__all__ = ["ConfigException", "client", "config"]
