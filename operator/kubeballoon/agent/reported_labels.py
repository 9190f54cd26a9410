"""This module bounds the labels of VMs and of the node in its report: others write them, and may write any number."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from kubeballoon.cluster.client import Object

_MOST_BYTES_OF_VM = 4 << 10  # several times what KubeVirt and its users' tools write
_MOST_BYTES_OF_NODE = 128 << 10  # a tenth of the largest object that etcd takes


@dataclass(frozen=True, slots=True)
class ReportedLabels:
    """ReportedLabels are those of a VM's or Node's labels that the node's report has room for.

    Attributes:
        labels: the labels.
        cut: whether there are more.
    """

    labels: Mapping[str, str] = field(default_factory=dict)
    cut: bool = False


def bound_labels(labels: Mapping[str, str], selected_by: Collection[str], sharers: int = 1) -> ReportedLabels:
    """Choose the labels to report: first those by which policies select, then the others by their names.

    Args:
        labels: the labels of a VM, or of the Node.
        selected_by: the keys by which policies select.
        sharers: the number of VMs among which the room for labels is divided.
    """
    room = min(_MOST_BYTES_OF_VM, _MOST_BYTES_OF_NODE // max(1, sharers))
    if sum(len(key) + len(value) for key, value in labels.items()) <= room:
        return ReportedLabels(dict(labels))
    chosen = {}
    for key in (*sorted(labels.keys() & selected_by), *sorted(labels.keys() - selected_by)):
        room -= len(key) + len(labels[key])
        if room < 0:
            break
        chosen[key] = labels[key]
    return ReportedLabels(chosen, cut=True)


def selector_keys(policies: Iterable[Object], selector: str = "virtualMachineSelector") -> frozenset[str]:
    """Collect the keys of labels by which one of policies' selectors selects; what cannot be read is left out."""
    return frozenset(key for policy in policies for key in _keys(policy, selector))


def _keys(policy: Object, selector_name: str) -> Iterator[str]:
    """Iterate over one policy's keys; a newer version's policy may have any other form."""
    selector: object = policy
    for name in ("spec", "selector", selector_name):
        selector = selector.get(name) if isinstance(selector, dict) else None
    if not isinstance(selector, dict):
        return
    matched, expressions = selector.get("matchLabels"), selector.get("matchExpressions")
    yield from matched if isinstance(matched, dict) else ()
    for expression in expressions if isinstance(expressions, list) else ():
        if isinstance(expression, dict) and isinstance(expression.get("key"), str):
            yield expression["key"]
