"""Names that shells complete: of VMs, nodes, policies, namespaces and contexts.

A shell waits for them, so they come soon or not at all, and what goes wrong is not said.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterable
from contextlib import suppress
from threading import Thread
from typing import TYPE_CHECKING, Any

from kubeballoon.cli.kind_words import NODE_WORDS, VM_WORDS

if TYPE_CHECKING:
    from kubeballoon.cluster.client import ApiClient, Object

DEADLINE = 3.0  # seconds, of which importing what reads them takes most


def complete(thing: str, options: argparse.Namespace, prefix: str) -> list[str]:
    """The names of a kind of thing: vms, vms-and-nodes, nodes, policies, namespaces or contexts."""
    found: list[str] = []

    def work() -> None:
        with suppress(Exception):
            found.extend(_read(thing, options, prefix))

    thread = Thread(target=work, daemon=True)  # what hangs ends with the process
    thread.start()
    thread.join(DEADLINE)
    return list(found)


def _read(thing: str, options: argparse.Namespace, prefix: str) -> list[str]:
    from kubeballoon.cluster.client import contexts  # noqa: PLC0415 - in the thread: importing takes most of the time

    if thing == "contexts":
        return contexts(_option(options, "kubeconfig"))
    return asyncio.run(_ask(thing, options, prefix))


async def _ask(thing: str, options: argparse.Namespace, prefix: str) -> list[str]:
    from kubeballoon.cluster import paths  # noqa: PLC0415 - as above
    from kubeballoon.cluster.client import ApiClient  # noqa: PLC0415 - as above

    kubeconfig, context = _option(options, "kubeconfig"), _option(options, "context")
    async with await ApiClient.connect("kubectl-balloon", kubeconfig, context) as cluster:
        if thing == "namespaces":
            return sorted(await cluster.names(paths.NAMESPACES))
        if thing == "nodes":
            return sorted(await cluster.names(paths.NODE_PRESSURES))
        if thing == "policies":
            kinds = paths.MEMORY_POLICIES, paths.PROCESSOR_POLICIES
            return sorted(set().union(*[await cluster.names(kind) for kind in kinds]))
        return await _places(cluster, options, prefix, nodes=thing == "vms-and-nodes")


async def _places(cluster: ApiClient, options: argparse.Namespace, prefix: str, *, nodes: bool) -> list[str]:
    from kubeballoon.cluster import paths  # noqa: PLC0415 - as above

    pressures: list[Object] = (await cluster.get(paths.NODE_PRESSURES))["items"]
    vms = [
        (str(vm["namespace"]), str(vm["name"]))
        for pressure in pressures
        for vm in pressure.get("status", {}).get("virtualMachines", ())
    ]
    named = _option(options, "namespace")
    names = vm_names(prefix, vms, named or cluster.namespace, elsewhere=named is None)
    if nodes:
        names += node_names(prefix, [str(pressure["metadata"]["name"]) for pressure in pressures])
    return sorted(names)


def vm_names(prefix: str, vms: Iterable[tuple[str, str]], namespace: str, *, elsewhere: bool) -> list[str]:
    """How VMs, given as (namespace, name), can be written so that it begins with ``prefix``.

    Those of other namespaces are offered once something is written, for there may be thousands, or where there are no
    others.
    """
    word, slash, _ = prefix.rpartition("/")
    if slash and word in VM_WORDS:
        return [f"{word}/{name}" for where, name in vms if where == namespace]
    own = [name for where, name in vms if where == namespace]
    offered = elsewhere and (prefix or not own)
    return [*own, *(f"{where}/{name}" for where, name in vms if offered and (slash or where != namespace))]


def node_names(prefix: str, nodes: Iterable[str]) -> list[str]:
    """How nodes can be written so that it begins with ``prefix``."""
    word, slash, _ = prefix.rpartition("/")
    return [f"{word if slash and word in NODE_WORDS else NODE_WORDS[0]}/{name}" for name in nodes]


def _option(options: argparse.Namespace, name: str) -> Any:
    """An option as far as the line is parsed."""
    return getattr(options, name, None)
