"""This module exports to Prometheus what the agent sees of its node and VMs, and how its own work goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime

from prometheus_client import Histogram, Metric
from prometheus_client.registry import Collector

from kubeballoon.api.v1alpha1 import NodeMemory, NodePressureStatus
from kubeballoon.metrics import BUCKETS, Gauge, Result, ResultCounter, new_registry
from kubeballoon.vocabulary import NodeState

_STATE = Gauge("kubeballoon_node_state", "1 for the state the node is in, 0 for the others.", ("node", "state"))
_MEMORY = Gauge(
    "kubeballoon_node_memory_bytes",
    "Memory of the node: total, available without swapping, in use by others than VMs, and kept free (reserve).",
    ("node", "kind"),
)
_STALL = Gauge(
    "kubeballoon_node_stall_percent",
    "Percent of the last ten seconds in which some, or all (full), tasks waited for memory.",
    ("node", "kind"),
)
_VM = ("node", "namespace", "name", "policy")
_VM_MEMORY = Gauge(
    "kubeballoon_vm_memory_bytes",
    "Memory of a VM: its size, what its balloon leaves it (actual), what its process holds (resident), what is "
    "requested (target), what it is guaranteed (min), and what its guest works with (need).",
    (*_VM, "kind"),
)
_SWAPPED = Gauge(
    "kubeballoon_vm_swap_bytes",
    "What a VM's guest has read from swap (in) and written to it (out) since it was started.",
    (*_VM, "direction"),
)
_TROUBLED = Gauge("kubeballoon_vm_troubled", "1 while a VM's guest swaps or refaults because it lacks memory.", _VM)
_PROCESSORS = Gauge(
    "kubeballoon_vm_processors",
    "Processors of a VM: how many it was given (size), how many its guest uses (online), what is requested (target).",
    (*_VM, "kind"),
)
_RESPONSIVE = Gauge("kubeballoon_vm_responsive", "1 while the VM answers and its driver follows requests.", _VM)
_ELIGIBLE = Gauge("kubeballoon_vm_eligible", "1 if the VM may be ballooned.", _VM)
_SAMPLED = Gauge("kubeballoon_vm_sample_timestamp_seconds", "When the agent last sampled a VM, Unix time.", _VM[:-1])
_REPORTED = Gauge(
    "kubeballoon_agent_report_timestamp_seconds",
    "When the agent last reported, or said that its last report holds; before that, when the agent began; Unix time.",
    ("node",),
)
_KINDS = ("size", "actual", "resident", "target", "min", "need")
_PROCESSOR_KINDS = ("size", "online", "target")


class ReportResult(Result):
    """A ReportResult is what became of a report to the API server."""

    WRITTEN = "written"
    CONFIRMED = "confirmed", "the last one was said to hold"
    FAILED = "failed"


class AgentMetrics(Collector):
    """AgentMetrics are the agent's metrics, read when they are scraped.

    Attributes:
        sample_durations: how long samples of VMs take.
    """

    def __init__(
        self,
        node: str,
        report: Callable[[], NodePressureStatus | None],
        sample_times: Callable[[], Mapping[tuple[str, ...], float | None]],
    ) -> None:
        """Export the metrics of ``node``.

        Args:
            node: the node's name.
            report: composes the report as of now; None while nothing is known.
            sample_times: when each VM was last sampled, seconds, by namespace and name.
        """
        self._node = node
        self._report = report
        self._sample_times = sample_times
        self._written_at = datetime.now(UTC)
        self.registry = new_registry("agent")
        self.registry.register(self)
        self._reports = ResultCounter(
            "kubeballoon_agent_reports", "Reports to the API server", ReportResult, self.registry
        )
        self.sample_durations = Histogram(
            "kubeballoon_agent_sample_duration_seconds",
            "How long its libvirt daemon takes to sample a VM.",
            buckets=BUCKETS,
            registry=self.registry,
        )

    def reported(self, moment: datetime | None, result: ReportResult) -> None:
        """Count a report as of ``moment``, or a failure (None), by its result."""
        self._reports.count(result)
        self._written_at = moment or self._written_at

    def collect(self) -> Iterator[Metric]:
        """Yield the present values."""
        status, node = self._report(), self._node
        memory = None if status is None else status.memory
        vms = () if status is None else status.virtual_machines
        yield _STATE.family(
            ((node, state), None if status is None else float(status.state is state)) for state in NodeState
        )
        yield _MEMORY.family(((node, kind), getattr(memory, kind, None)) for kind in NodeMemory.model_fields)
        stall = None if status is None else status.stall
        yield _STALL.family(((node, kind), getattr(stall, kind, None)) for kind in ("some", "full"))
        # The policy is empty where nothing is requested of the VM.
        labelled = [((node, vm.namespace, vm.name, vm.policy or ""), vm) for vm in vms]
        yield _VM_MEMORY.family(((*labels, kind), getattr(vm, kind)) for labels, vm in labelled for kind in _KINDS)
        yield _SWAPPED.family(
            ((*labels, direction), swapped)
            for labels, vm in labelled
            if vm.guest is not None
            for direction, swapped in (("in", vm.guest.swap_in), ("out", vm.guest.swap_out))
        )
        yield _TROUBLED.family((labels, float(vm.troubled)) for labels, vm in labelled)
        yield _PROCESSORS.family(
            ((*labels[:-1], vm.processors.policy or "", kind), getattr(vm.processors, kind))
            for labels, vm in labelled
            if vm.processors is not None
            for kind in _PROCESSOR_KINDS
        )
        yield _RESPONSIVE.family((labels, float(vm.responsive)) for labels, vm in labelled)
        yield _ELIGIBLE.family((labels, float(vm.eligible)) for labels, vm in labelled)
        yield _SAMPLED.family(((node, *name), at) for name, at in self._sample_times().items())
        yield _REPORTED.family([((node,), self._written_at.timestamp())])
