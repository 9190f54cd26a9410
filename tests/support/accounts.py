"""Accounts with few rights, for what a command does without the others."""

from __future__ import annotations

from pathlib import Path

from hack.testbed.controlplane import ControlPlane
from tests.support.cluster import Object

_GROUP = "rbac.authorization.k8s.io"


def account_with_leases(plane: ControlPlane, namespace: str, name: str, *kinds: tuple[str, str]) -> Path:
    """Make a ServiceAccount that may do everything with the Leases of its namespace, and return its kubeconfig.

    It may also read the given kinds, each by its group and its plural, and no others.
    """
    where, everywhere = {"name": name, "namespace": namespace}, {"name": f"{namespace}-{name}"}
    leases = {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["*"]}
    rules = [{"apiGroups": [group], "resources": [kind], "verbs": ["get", "list", "watch"]} for group, kind in kinds]
    objects: list[Object] = [{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": where}]
    for kind, metadata, granted in (("Role", where, [leases]), ("ClusterRole", everywhere, rules)):
        reference = {"apiGroup": _GROUP, "kind": kind, "name": metadata["name"]}
        role = {"apiVersion": f"{_GROUP}/v1", "kind": kind, "metadata": metadata, "rules": granted}
        binding = {**role, "kind": f"{kind}Binding", "roleRef": reference}
        del binding["rules"]
        objects += [role, {**binding, "subjects": [{"kind": "ServiceAccount", **where}]}]
    plane.apply(objects)
    return plane.service_account_kubeconfig(namespace, name)
