"""This module finds the names that shells complete: of VMs, nodes, policies, namespaces and contexts.

A user waits while a shell completes, so names that cannot be had within a few seconds are left out, and errors are not
reported.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from contextlib import suppress
from threading import Thread
from typing import TYPE_CHECKING, Any

from kubeballoon.cli.resource_aliases import NODE_ALIASES, VM_ALIASES

if TYPE_CHECKING:
    from kubeballoon.cluster.reader import ApiReader

Reader = Callable[[str, argparse.Namespace, str], list[str]]
"""A function that finds names, from the same resource, command line and prefix as `complete`."""

_DEADLINE = 3.0  # seconds


def complete(
    resource: str, options: argparse.Namespace, prefix: str, *, deadline: float = _DEADLINE, read: Reader | None = None
) -> list[str]:
    """Find the names of a resource: vms, vms-and-nodes, nodes, policies, namespaces or contexts.

    Args:
        resource: what to name.
        options: the command line, as far as it is parsed.
        prefix: what the user has typed of the name; names that do not begin with it may be returned as well.
        deadline: seconds after which there are no names.
        read: finds the names; None for the cluster's, or the kubeconfig's.
    """
    names: list[str] = []

    def work() -> None:
        with suppress(Exception):
            names.extend((read or _read_names)(resource, options, prefix))

    thread = Thread(target=work, daemon=True)  # a daemon, so that a call that hangs does not outlive the completion
    thread.start()
    thread.join(deadline)
    return list(names)


def _read_names(resource: str, options: argparse.Namespace, prefix: str) -> list[str]:
    from kubeballoon.cluster import kubeconfig  # noqa: PLC0415 - in the thread: importing takes part of the time

    if resource == "contexts":
        return kubeconfig.contexts(_parsed_option(options, "kubeconfig"))
    from kubeballoon.cluster import paths  # noqa: PLC0415 - in the thread: importing takes part of the time
    from kubeballoon.cluster.impersonation import Impersonation  # noqa: PLC0415 - in the thread: importing takes part of the time
    from kubeballoon.cluster.reader import ApiReader  # noqa: PLC0415 - in the thread: importing takes part of the time

    path, context = _parsed_option(options, "kubeconfig"), _parsed_option(options, "context")
    user = Impersonation(*(_parsed_option(options, name) for name in ("as_user", "as_uid", "as_groups")))
    with ApiReader.connect(path, context, user) as reader:
        if resource == "namespaces":
            return sorted(reader.names(paths.NAMESPACES))
        if resource == "nodes":
            return sorted(reader.names(paths.NODE_PRESSURES))
        if resource == "policies":
            kinds = paths.MEMORY_POLICIES, paths.PROCESSOR_POLICIES
            return sorted(set().union(*[reader.names(kind) for kind in kinds]))
        return _list_vms(reader, options, prefix, with_nodes=resource == "vms-and-nodes")


def _list_vms(reader: ApiReader, options: argparse.Namespace, prefix: str, *, with_nodes: bool) -> list[str]:
    from kubeballoon.cluster import paths  # noqa: PLC0415 - in the thread: importing takes part of the time

    vms: list[tuple[str, str]] = []
    nodes: list[str] = []
    for node in reader.items(paths.NODE_PRESSURES):
        nodes.append(str(node["metadata"]["name"]))
        reports = node.get("status", {}).get("virtualMachines", ())
        vms += [(str(vm["namespace"]), str(vm["name"])) for vm in reports]
    namespace = _parsed_option(options, "namespace")
    names = vm_names(prefix, vms, namespace or reader.namespace, other_namespaces=namespace is None)
    return sorted([*names, *(node_names(prefix, nodes) if with_nodes else [])])


def vm_names(
    prefix: str, vms: Iterable[tuple[str, str]], current_namespace: str, *, other_namespaces: bool
) -> list[str]:
    """List VMs in the notation that the user has begun with ``prefix``: NAME, vm/NAME or NAMESPACE/NAME.

    There may be thousands of VMs in other namespaces, so these are listed only after the first letter, or if the
    current namespace has none.

    Args:
        prefix: what the user has typed.
        vms: the namespace and the name of each VM.
        current_namespace: the namespace of VMs that are written without one.
        other_namespaces: whether VMs of other namespaces may be given.
    """
    before_slash, slash, _ = prefix.rpartition("/")
    if slash and before_slash in VM_ALIASES:
        return [f"{before_slash}/{name}" for namespace, name in vms if namespace == current_namespace]
    current = [name for namespace, name in vms if namespace == current_namespace]
    if not other_namespaces or (current and not prefix):
        return current
    return [
        *current,
        *(f"{namespace}/{name}" for namespace, name in vms if slash or namespace != current_namespace),
    ]


def node_names(prefix: str, nodes: Iterable[str]) -> list[str]:
    """List nodes in the notation that the user has begun with ``prefix``: node/NAME, or another alias of node."""
    before_slash, slash, _ = prefix.rpartition("/")
    alias = before_slash if slash and before_slash in NODE_ALIASES else NODE_ALIASES[0]
    return [f"{alias}/{name}" for name in nodes]


def _parsed_option(options: argparse.Namespace, name: str) -> Any:
    """Return an option's value; None if the command line, which is incomplete, does not hold it yet."""
    return getattr(options, name, None)
