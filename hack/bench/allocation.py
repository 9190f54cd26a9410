"""The time that the controller's decision takes, for one node and for a cluster of nodes."""

from __future__ import annotations

import random
import statistics
import time
from typing import Any

from kubeballoon.core.decision_reason import TargetChange
from kubeballoon.core.memory.allocation import allocate_memory
from kubeballoon.core.memory.model import MemoryNode, MemoryTerms, MemoryVM
from kubeballoon.core.units import GIB

_ROUNDS = 200
_OVERCOMMIT = 1.6
_CLUSTER_NODES, _VMS_PER_NODE = 500, 20
_ALLOWED_MS = {100: 0.3, 1000: 2.0}  # by the number of VMs


def rows() -> list[dict[str, Any]]:
    """Measure medians on one core, milliseconds."""
    result: list[dict[str, Any]] = []
    for vms in (10, 100, 1000):
        result.append({"nodes": 1, "vms": vms, "median_ms": _median_ms([_make_node(vms, seed=1)], _ROUNDS)})
        if vms in _ALLOWED_MS:
            result[-1]["allowed_ms"] = _ALLOWED_MS[vms]
    cluster = [_make_node(_VMS_PER_NODE, seed) for seed in range(_CLUSTER_NODES)]
    return [*result, {"nodes": _CLUSTER_NODES, "vms": _VMS_PER_NODE, "median_ms": _median_ms(cluster, rounds=5)}]


def _median_ms(nodes: list[MemoryNode], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        for node in nodes:
            allocate_memory(node)
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3


def _make_node(vms: int, seed: int) -> MemoryNode:
    """Make a node with VMs of several sizes, a third of them busy, whose targets changed at various times."""
    draw = random.Random(seed)  # noqa: S311 - not for secrets
    policy = MemoryTerms("default")
    made = tuple(_make_vm(index, draw, policy) for index in range(vms))
    total = int(sum(vm.size for vm in made) / _OVERCOMMIT) + 4 * GIB
    return MemoryNode("node", total, available=10 * GIB, other=2 * GIB, reserve=2 * GIB, vms=made)


def _make_vm(index: int, draw: random.Random, policy: MemoryTerms) -> MemoryVM:
    size = draw.choice([2, 4, 8, 16]) * GIB
    busy = draw.random() < 1 / 3
    return MemoryVM(
        uid=f"uid-{index}",
        name=f"default/vm-{index}",
        size=size,
        actual=int(size * draw.uniform(0.5, 1)),
        need=int(size * (draw.uniform(0.5, 0.85) if busy else draw.uniform(0.1, 0.5))),
        target=int(size * draw.uniform(0.5, 1)),
        policy=policy,
        last_change=TargetChange(up=draw.random() < 1 / 2, age=draw.uniform(0, 100)),
    )
