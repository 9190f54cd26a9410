"""This module bounds the labels of VMs in a node's report: their owners write them, and may write any number."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from kubeballoon.cluster.client import Object

_MOST_BYTES_OF_VM = 4 << 10  # several times what KubeVirt and its users' tools write
_MOST_BYTES_OF_NODE = 128 << 10  # a tenth of the largest object that etcd takes


@dataclass(frozen=True, slots=True)
class ReportedLabels:
    """ReportedLabels are those of a VM's labels that its node's report has room for.

    Attributes:
        labels: the labels.
        cut: whether the VM has more.
    """

    labels: Mapping[str, str] = field(default_factory=dict)
    cut: bool = False


def bound_labels(labels: Mapping[str, str], selected_by: Collection[str], vms: int) -> ReportedLabels:
    """Choose the labels of a VM to report: first those by which policies select, then the others by their names.

    Args:
        labels: the VM's labels.
        selected_by: the keys by which policies select VMs.
        vms: the number of the node's VMs, among which the room for labels is divided.
    """
    room = min(_MOST_BYTES_OF_VM, _MOST_BYTES_OF_NODE // max(1, vms))
    if sum(len(key) + len(value) for key, value in labels.items()) <= room:
        return ReportedLabels(dict(labels))
    chosen = {}
    for key in (*sorted(labels.keys() & selected_by), *sorted(labels.keys() - selected_by)):
        room -= len(key) + len(labels[key])
        if room < 0:
            break
        chosen[key] = labels[key]
    return ReportedLabels(chosen, cut=True)


def selector_keys(policies: Iterable[Object]) -> frozenset[str]:
    """Collect the keys of labels by which policies select VMs; what cannot be read in a policy is left out."""
    return frozenset(key for policy in policies for key in _keys(policy))


def _keys(policy: Object) -> Iterator[str]:
    """Iterate over one policy's keys; a newer version's policy may have any other form."""
    selector: object = policy
    for name in ("spec", "selector", "virtualMachineSelector"):
        selector = selector.get(name) if isinstance(selector, dict) else None
    if not isinstance(selector, dict):
        return
    matched, expressions = selector.get("matchLabels"), selector.get("matchExpressions")
    yield from matched if isinstance(matched, dict) else ()
    for expression in expressions if isinstance(expressions, list) else ():
        if isinstance(expression, dict) and isinstance(expression.get("key"), str):
            yield expression["key"]
