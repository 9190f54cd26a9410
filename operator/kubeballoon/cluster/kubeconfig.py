"""This module reads how to reach an API server: from a kubeconfig, or in a pod from its service account.

The client library's reader of kubeconfigs is used, with its plugins for credentials, but not the rest of the library:
that takes longer to import than a command takes to run.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from kubeballoon.cluster.errors import ApiError, unbroken
from kubeballoon.cluster.impersonation import Impersonation

_CONFIG = "kubernetes.aio.config"


@dataclass(slots=True)
class Access:
    """An Access says how to reach an API server; the client library fills it in, so the names are the library's.

    Attributes:
        api_key: the header Authorization, by the name BearerToken.
        proxy: the URL of a proxy; None for what the environment says.
        namespace: of objects whose namespace the user leaves out.
        impersonation: as whom a kubeconfig's user acts.
    """

    host: str = ""
    api_key: dict[str, str] = field(default_factory=dict)
    ssl_ca_cert: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    verify_ssl: bool = True
    tls_server_name: str | None = None
    proxy: str | None = None
    refresh_api_key_hook: Any = None
    namespace: str = "default"
    impersonation: Impersonation = field(default_factory=Impersonation)


def load(kubeconfig: Path | None = None, context: str | None = None) -> Access:
    """Read a kubeconfig, or the pod's service account where there is no kubeconfig.

    Args:
        kubeconfig: the kubeconfig's path; None for the user's own.
        context: the kubeconfig's context; None for its current one.

    Raises:
        ApiError: there is no usable configuration.
    """
    if kubeconfig is not None and not kubeconfig.is_file():
        raise ApiError(f"no access to a cluster: there is no kubeconfig {kubeconfig}")
    access, default = Access(), _default_path()
    has_kubeconfig = kubeconfig is not None or context is not None or _exists(default)
    if not has_kubeconfig and "KUBERNETES_SERVICE_HOST" not in os.environ:
        raise ApiError(f"no access to a cluster: there is no kubeconfig {default}, and this is no pod")
    try:
        if has_kubeconfig:
            _load_kubeconfig(access, str(kubeconfig or default), context)
        else:
            _import_part("incluster_config").load_incluster_config(client_configuration=access)
    # The library reads a kubeconfig without checking it first, so a malformed one fails anywhere, in any way.
    except OSError as error:
        raise ApiError(f"no access to a cluster: {unbroken(error)}") from error
    except Exception as error:
        known = type(error).__name__ == "ConfigException"  # the library's, which its stand-ins make several of
        what = "" if known else "the kubeconfig cannot be read: "
        raise ApiError(f"no access to a cluster: {what}{unbroken(error)}") from error
    return access


def contexts(kubeconfig: Path | None = None) -> list[str]:
    """List the contexts of a kubeconfig; without a path, of the user's own."""
    known, _ = _import_part("kube_config").list_kube_config_contexts(str(kubeconfig or _default_path()))
    return sorted(context["name"] for context in known)


def _load_kubeconfig(access: Access, path: str, context: str | None) -> None:
    kube_config = _import_part("kube_config")
    loader = asyncio.run(kube_config.load_kube_config(path, context=context, client_configuration=access))
    access.namespace = loader.current_context["context"].get("namespace") or access.namespace
    user = loader._user  # noqa: SLF001 - the library has no other name for the user of the context
    access.impersonation = Impersonation() if user is None else Impersonation.from_kubeconfig(user.value)


def _default_path() -> str:
    return os.environ.get("KUBECONFIG") or str(Path.home() / ".kube/config")


def _exists(paths: str) -> bool:
    return any(Path(path).expanduser().exists() for path in paths.split(os.pathsep) if path)


def _import_part(name: str) -> Any:
    """Import one module of the library's package of configuration, without the clients that it would import first."""
    with _stand_ins():
        return importlib.import_module(f"{_CONFIG}.{name}")


@contextmanager
def _stand_ins() -> Iterator[None]:
    """Put empty packages in the place of those that a kubeconfig is read without, and take all back at the end.

    So the real ones can still be imported afterwards.
    """
    before = {name: module for name, module in sys.modules.items() if name.split(".")[0] in ("kubernetes", "aiohttp")}
    spec = importlib.util.find_spec("kubernetes") if "kubernetes" not in sys.modules else None
    root = spec.submodule_search_locations if spec is not None else sys.modules["kubernetes"].__path__
    if root is None:
        raise ModuleNotFoundError("the package kubernetes has no modules")
    directory = Path(next(iter(root)))
    for name in before:
        del sys.modules[name]
    for name in ("kubernetes", "kubernetes.aio", _CONFIG):
        sys.modules[name] = package = ModuleType(name)
        package.__path__ = [str(directory.joinpath(*name.split(".")[1:]))]
    clients = ModuleType("kubernetes.aio.client")
    clients.__dict__.update(ApiClient=object, Configuration=Access)
    http = ModuleType("aiohttp")
    http.__dict__["__getattr__"] = _real_aiohttp  # used only to refresh a token of OpenID Connect
    sys.modules.update({clients.__name__: clients, http.__name__: http})
    try:
        yield
    finally:
        for name in [each for each in sys.modules if each.split(".")[0] in ("kubernetes", "aiohttp")]:
            del sys.modules[name]
        sys.modules.update(before)


def _real_aiohttp(name: str) -> Any:
    return getattr(importlib.import_module("aiohttp"), name)
