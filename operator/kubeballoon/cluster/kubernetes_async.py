"""This module imports the asynchronous half of the package ``kubernetes`` without its synchronous half.

``kubernetes/__init__.py`` imports the synchronous half, with HTTP and OAuth libraries of its own: 7 MiB that no part of
kubeballoon uses, in every agent. So this module makes the package object without running that file. The synchronous
half is still imported as soon as somebody asks for one of its modules.
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
    """Import a module of the package when it is first asked for as an attribute."""
    try:
        return importlib.import_module(f"{_PACKAGE}.{name}")
    except ModuleNotFoundError as error:
        raise AttributeError(f"module {_PACKAGE!r} has no attribute {name!r}") from error


_make_package()

from kubernetes.aio import client, config  # noqa: E402 - the package has to be made first
from kubernetes.aio.config import ConfigException  # noqa: E402

__all__ = ["ConfigException", "client", "config"]
