"""This module writes a node's report without those VMs' reports that the API server refuses."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from kubeballoon.agent.report import refused_report
from kubeballoon.api.v1alpha1 import NodePressureStatus, VirtualMachineReport
from kubeballoon.cluster import paths
from kubeballoon.cluster.client import ApiClient, InvalidError, Object
from kubeballoon.core.backoff import Backoff

_log = logging.getLogger(__name__)

# Half of the largest object that etcd takes: the API server stores beside each field who wrote it.
_MOST_BYTES = 768 << 10
_RETRY = Backoff(shortest=60.0, longest=3600.0)  # a VM's report that was refused is seldom accepted soon after


@dataclass(slots=True)
class _Refusal:
    """A _Refusal is a VM's report that was refused.

    Attributes:
        why: why it was refused.
        left_out: whether what took its place was refused too, so that the VM is not reported.
        backoff: when it is tried again.
    """

    why: str
    left_out: bool = False
    backoff: Backoff = field(default=_RETRY)


class PartialReportWriter:
    """A PartialReportWriter writes all of one node's report that the API server accepts.

    A VM's report that is refused is replaced by a short one that says so, or left out, so it hides no other VM.
    """

    def __init__(self, cluster: ApiClient, node: str, clock: Callable[[], float] = time.monotonic) -> None:
        """Write through ``cluster``; ``clock`` gives monotonic seconds."""
        self._cluster = cluster
        self._node = node
        self._clock = clock
        self._refused: dict[str, _Refusal] = {}  # by the VM's uid

    def replace_refused(self, status: NodePressureStatus) -> NodePressureStatus:
        """Replace what was refused lately of a VM by a report that says so, for a while that grows."""
        now = self._clock()
        present = {vm.uid for vm in status.virtual_machines}
        self._refused = {uid: refusal for uid, refusal in self._refused.items() if uid in present}
        refused = {uid: each for uid, each in self._refused.items() if now < each.backoff.until}
        if not refused:
            return status
        vms = [
            refused_report(vm, refused[vm.uid].why) if vm.uid in refused else vm
            for vm in status.virtual_machines
            if vm.uid not in refused or not refused[vm.uid].left_out
        ]
        return status.model_copy(update={"virtual_machines": vms})

    async def write(self, status: NodePressureStatus) -> NodePressureStatus:
        """Write a report, and return what was written: where the API server refuses a VM's part, a shorter one.

        Raises:
            ApiError: the API server cannot be reached, or refuses the report whatever is left out of it.
        """
        status = self._bound(status)
        try:
            await self._put(status)
        except InvalidError:
            return await self._write_rest(status)
        for vm in status.virtual_machines:
            known = self._refused.get(vm.uid)
            if known is not None and self._clock() >= known.backoff.until:
                del self._refused[vm.uid]
        return status

    async def _write_rest(self, status: NodePressureStatus) -> NodePressureStatus:
        """Write a report that was refused, with as much of it as the API server takes; return what was written.

        Raises:
            ApiError: the API server cannot be reached, or refuses the report even without VMs.
        """
        await self._search(status, status.virtual_machines)
        shortened = self.replace_refused(status)
        try:
            await self._put(shortened)
        except InvalidError:
            for refusal in self._refused.values():
                refusal.left_out = True
            shortened = self.replace_refused(status)
            await self._put(shortened)
        return shortened

    def _bound(self, status: NodePressureStatus) -> NodePressureStatus:
        """Replace the longest parts of VMs until the report fits into an object."""
        sizes = {vm.uid: len(json.dumps(vm.to_wire(), ensure_ascii=False).encode()) for vm in status.virtual_machines}
        excess = sum(sizes.values()) - _MOST_BYTES
        for vm in sorted(status.virtual_machines, key=lambda vm: sizes[vm.uid], reverse=True):
            if excess <= 0:
                break
            self._refuse(vm, "it is too long for the report of its node")
            excess -= sizes[vm.uid]
        return self.replace_refused(status)

    async def _search(self, status: NodePressureStatus, vms: list[VirtualMachineReport]) -> None:
        """Find the VMs whose part of a report is refused, by halves; nothing is written."""
        try:
            await self._put(status.model_copy(update={"virtual_machines": vms}), dry_run=True)
        except InvalidError as error:
            if len(vms) == 1:
                self._refuse(vms[0], str(error))
            elif vms:
                await self._search(status, vms[: len(vms) // 2])
                await self._search(status, vms[len(vms) // 2 :])

    def _refuse(self, vm: VirtualMachineReport, why: str) -> None:
        refusal = self._refused.setdefault(vm.uid, _Refusal(why))
        refusal.why, refusal.backoff = why, refusal.backoff.failed(self._clock())
        name = f"{vm.namespace}/{vm.name}"
        _log.error("what is reported of %s is refused: %.1000s", name, why, extra={"vm": name})

    async def _put(self, status: NodePressureStatus, *, dry_run: bool = False) -> None:
        """Replace the whole status: nobody else writes any of it, and to merge it costs the API server more."""
        operation: Object = {"op": "add", "path": "/status", "value": status.to_wire()}
        await self._cluster.json_patch(paths.node_pressure_status(self._node), [operation], dry_run=dry_run)
