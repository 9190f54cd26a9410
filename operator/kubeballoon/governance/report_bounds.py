"""This module limits the trust in a node's report: how old it may be, and to which range its figures are clamped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from kubeballoon.api.v1alpha1 import NodePressure, NodePressureStatus
from kubeballoon.core.units import GIB

SILENT_AFTER = 180.0  # seconds: agents report, or say that their report holds, every 60, so three in a row are missing

_MOST_MEMORY = GIB << 20  # bytes, 1 PiB: so the figures of a thousand VMs together do not overflow 64 bits
_MOST_PROCESSORS = 8192  # the most that Linux can be built for on x86


def lease_namespaces(nodes: Iterable[NodePressure]) -> set[str]:
    """Find the namespaces in which agents have the Leases by which they say that their reports hold."""
    return {each.status.lease_namespace for each in nodes if each.status is not None and each.status.lease_namespace}


def as_last_held(node: NodePressure, heartbeats: Mapping[str, datetime]) -> NodePressure:
    """Date a node's report by when it last held, if its agent has said so since it was written.

    Args:
        node: the node with its report.
        heartbeats: when each node's agent last said that its report holds, by the node's name.
    """
    moment = heartbeats.get(node.metadata.name)
    if node.status is None or moment is None:
        return node
    return node.model_copy(update={"status": held_until(node.status, moment)})


def held_until(status: NodePressureStatus, moment: datetime) -> NodePressureStatus:
    """Date a report by ``moment``, when its agent said that it holds; one that takes no part in that stays as it is."""
    if status.lease_namespace is None or moment <= status.observed_at:
        return status
    return status.model_copy(update={"observed_at": moment})


def clamp_to_size(figure: int | None, size: int) -> int | None:
    """Clamp a VM's figure to 0..``size``, bytes or processors: annotations can be forged, guests can say anything."""
    return None if figure is None else max(0, min(figure, size))


def clamp_memory(size: int) -> int:
    """Clamp an amount of memory, bytes, to what a node could have: a report can say any number."""
    return min(size, _MOST_MEMORY)


def clamp_processors(count: int) -> int:
    """Clamp a number of processors to what a node could have: a report can say any number."""
    return min(count, _MOST_PROCESSORS)
