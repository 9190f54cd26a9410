"""This module models what happens when a node's free memory is used up: VMs are killed until enough is free again.

The kubelet looks every ten seconds. While less is free than its eviction threshold, it evicts one pod each time. If
memory runs out before, the kernel kills at once. Both take those first that use more than they requested, and of these
the one that exceeds its request most. All VMs here have one priority and are of QoS class Burstable, as KubeVirt's
overcommitted VMs are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kubeballoon.replay.node_workload import NodeWorkload
from kubeballoon.replay.simulated_vm import SimulatedVM

EVICTION_SECONDS = 10.0
"""Seconds between two looks of the kubelet at the node's free memory (its housekeeping interval)."""


@dataclass(slots=True)
class Exhaustion:
    """An Exhaustion counts when a node's free memory is used up, and kills VMs for that.

    Attributes:
        workload: the node's.
        vms: the node's VMs, in the order of the workload's traces.
        times: how often free memory fell below the eviction threshold.
        seconds: for how long it was below.
        killed: how many VMs were killed.
        due: when the kubelet looks next, seconds; None while enough memory is free.
    """

    workload: NodeWorkload
    vms: Sequence[SimulatedVM]
    times: int = 0
    seconds: float = 0.0
    killed: int = 0
    due: float | None = None

    def advance(self, seconds: float) -> None:
        """Count ``seconds`` that have passed, if memory is used up."""
        if self.due is not None:
            self.seconds += seconds

    def check(self, now: float, available: Callable[[], float]) -> bool:
        """Find out whether memory is used up at ``now``, and kill whom the kubelet or the kernel would kill then.

        Args:
            now: the time, seconds.
            available: computes the node's free memory, bytes; it is below zero where guests use more than there is.

        Returns:
            Whether a VM was killed.
        """
        killed, threshold = self.killed, self.workload.eviction_threshold
        if available() >= threshold:
            self.due = None
            return False
        if self.due is None:
            self.times += 1
            self.due = now + EVICTION_SECONDS
        if now >= self.due:
            self._kill(now)
            self.due = now + EVICTION_SECONDS
        while available() < 0 and any(vm.running for vm in self.vms):
            self._kill(now)
        if available() >= threshold:
            self.due = None
        return self.killed > killed

    def _kill(self, now: float) -> None:
        """Kill the VM that exceeds its request most, or comes closest to it."""
        excess = {
            index: vm.guest.resident_at(now) - self.workload.requested(trace)
            for index, (vm, trace) in enumerate(zip(self.vms, self.workload.traces, strict=True))
            if vm.running
        }
        if excess:
            self.vms[max(excess, key=lambda index: excess[index])].kill(now, now + self.workload.guests.restart_seconds)
            self.killed += 1
