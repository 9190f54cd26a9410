"""This module has the queries to Prometheus by which VMs' memory is known: kubeballoon's own metrics, else KubeVirt's.

Their names are those of KubeVirt 1.9 (docs/observability/metrics.md there). In older ones the size of a VM's domain is
``kubevirt_vmi_memory_domain_bytes_total``. What a VM needs is derived as agents do (``core/memory/demand.py``): what
the balloon leaves the guest, less what the guest could spare. A guest that does not say so could spare what it does not
use, and half of its caches.
"""

from __future__ import annotations

from dataclasses import dataclass

_RATE_SECONDS = 300  # the least window of a rate: several scrapes have to be in it

SIZE = "kubevirt_vmi_memory_domain_bytes"
"""KubeVirt's metric of VMs' sizes."""


@dataclass(frozen=True, slots=True)
class VMQueries:
    """VMQueries are expressions of PromQL.

    Attributes:
        step: seconds between two instants.
        matchers: matchers of labels that all metrics must meet, such as ``cluster="a"``; may be empty.
    """

    step: float
    matchers: str = ""

    def _metric(self, name: str, *matchers: str) -> str:
        return f"{name}{{{','.join(each for each in (*matchers, self.matchers) if each)}}}"

    def _rate(self, name: str, *matchers: str) -> str:
        # A rate bears that a counter begins anew with each VM that is restarted or migrates.
        return f"rate({self._metric(name, *matchers)}[{max(round(self.step), _RATE_SECONDS)}s])"

    def _sizes(self) -> tuple[str, ...]:
        own = self._metric("kubeballoon_vm_memory_bytes", 'kind="size"')
        return own, self._metric(SIZE), self._metric(f"{SIZE}_total")

    @property
    def size(self) -> str:
        """Each VM's memory, bytes."""
        return _first_by_vm("max", *self._sizes())

    @property
    def need(self) -> str:
        """What each VM works with, bytes."""
        actual, usable, unused, cached = (
            self._metric(f"kubevirt_vmi_memory_{name}_bytes")
            for name in ("actual_balloon", "usable", "unused", "cached")
        )
        own = self._metric("kubeballoon_vm_memory_bytes", 'kind="need"')
        return _first_by_vm("max", own, f"{actual} - {usable}", f"{actual} - {unused} - {cached} / 2")

    @property
    def disk(self) -> str:
        """What each VM reads from disks and writes to them, bytes a second."""
        names = (f"kubevirt_vmi_storage_{direction}_traffic_bytes_total" for direction in ("read", "write"))
        return " + ".join(_first_by_vm("sum", self._rate(name)) for name in names)

    @property
    def swap_in(self) -> str:
        """What each VM's guest reads from swap, bytes a second."""
        own = self._rate("kubeballoon_vm_swap_bytes", 'direction="in"')
        return _first_by_vm("sum", own, self._rate("kubevirt_vmi_memory_swap_in_traffic_bytes"))

    @property
    def policy(self) -> str:
        """The policies that govern VMs, in the label ``policy``."""
        governed = self._metric("kubeballoon_vm_memory_bytes", 'kind="size"', 'policy!=""')
        return f"group by (namespace, name, policy) ({governed})"

    @property
    def vm_nodes(self) -> str:
        """The nodes that run VMs, in the label ``node``."""
        return " or ".join(f"group by (node) ({size})" for size in self._sizes())

    @property
    def node_memory(self) -> str:
        """What each node has for VMs, bytes: without what others use, or else what is allocatable to pods."""
        total, other = (
            f"max by (node) ({self._metric('kubeballoon_node_memory_bytes', matcher)})"
            for matcher in ('kind="total"', 'kind="other"')
        )
        allocatable = self._metric("kube_node_status_allocatable", 'resource="memory"')
        return f"{total} - {other} or max by (node) ({allocatable})"

    @property
    def host_memory(self) -> str:
        """The memory of each host that runs node_exporter, bytes, whether it is a node that runs VMs or not."""
        return f"max by (instance) ({self._metric('node_memory_MemTotal_bytes')})"

    def all(self) -> dict[str, str]:
        """Return all of them by their names here."""
        return {
            "size": self.size,
            "need": self.need,
            "disk": self.disk,
            "swap_in": self.swap_in,
            "policy": self.policy,
            "vm_nodes": self.vm_nodes,
            "node_memory": self.node_memory,
            "host_memory": self.host_memory,
        }


def _first_by_vm(how: str, *expressions: str) -> str:
    """Make an expression that has for each VM, whatever node it is on, what the first expression with a value says."""
    return " or ".join(f"{how} by (namespace, name) ({expression})" for expression in expressions)
