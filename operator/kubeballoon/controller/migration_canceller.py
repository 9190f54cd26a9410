"""This module cancels migrations that the controller made and that do not end."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import timedelta

from kubeballoon.api import names
from kubeballoon.api.v1alpha1 import VirtualMachineReport
from kubeballoon.cluster.client import ApiClient, ApiError, ConflictError, NotFoundError, Object
from kubeballoon.cluster.events import EventRecorder, ObjectReference
from kubeballoon.cluster.vm_migrations import KubeVirtMigration, cancel_migration, last_cancelled
from kubeballoon.cluster.vmi_annotations import VMIAnnotator, VMIReference
from kubeballoon.controller.cluster_state import ClusterState
from kubeballoon.controller.node_remedy import NodeRemedy

_log = logging.getLogger(__name__)

MIGRATION_CANCELLED = "MigrationCancelled"
"""The reason of events on Nodes and VMs."""

LONG_UNDER_WAY = timedelta(minutes=30)
"""How long a migration may be under way before it is named as one that does not end."""

# How much longer one may take for each GiB of its VM before it is cancelled. KubeVirt gives up after as long by default
# (completionTimeoutPerGiB), so it comes first: what is cancelled here KubeVirt has forgotten, or cannot begin.
_PER_GIB = timedelta(seconds=150)
_LONGEST = timedelta(days=1)  # also of a VM that no agent reports: nobody knows how large it is
_REMEMBERED = timedelta(days=7)  # the longest rest after failures is 32 hours, where policies do not say otherwise


class MigrationCanceller(NodeRemedy):
    """A MigrationCanceller cancels the controller's own migrations that do not end, and nobody else's.

    A migration is cancelled by deleting it, so KubeVirt does not keep it as one that failed. The canceller does, and
    writes it on the VM for the next leader.
    """

    _event_action = "CancelMigration"

    def __init__(
        self,
        cluster: ApiClient,
        state: ClusterState,
        recorder: EventRecorder,
        may_write: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin without having cancelled any; the arguments are a NodeRemedy's."""
        super().__init__(cluster, state, recorder, may_write, clock)
        self.fault: str | None = None
        self._annotator = VMIAnnotator(cluster)
        self._cancelled: list[KubeVirtMigration] = []

    @property
    def cancelled(self) -> list[KubeVirtMigration]:
        """The migrations that were cancelled, as ones that have failed: they begin when they were cancelled."""
        oldest = self._state.utc_now() - _REMEMBERED
        self._cancelled = [each for each in self._cancelled if each.begun_at > oldest]
        return self._cancelled

    def recall(self, vm: str, vmi: Object) -> bool:
        """Take in what an earlier leader wrote on a VM, by its VMI's metadata; whether that is news.

        Args:
            vm: the VM's namespace and name.
            vmi: the metadata of its VMI.
        """
        at = last_cancelled(vmi)
        known = any(each.vm == vm for each in self.cancelled)
        if at is None or known or not self._state.utc_now() - _REMEMBERED < at <= self._state.utc_now():
            return False
        self._cancelled.append(KubeVirtMigration(vm, at, ended=True, failed=True, target=None, ours=True))
        return True

    async def cancel(self, migrations: Iterable[KubeVirtMigration]) -> None:
        """Cancel those of ``migrations`` that the controller made and that should have ended long ago, or go astray.

        One goes astray where KubeVirt's controllers are older than its API, as while it is updated, and do not know
        that migrations may have targets.
        """
        self.fault = None
        now = self._state.utc_now()
        ours = [each for each in migrations if each.ours and not each.ended and not each.ending]
        suspects = [each for each in ours if each.strayed or now - each.begun_at > LONG_UNDER_WAY]
        for each in suspects:
            node, report = self._find_report(each)
            minutes = int((now - each.begun_at).total_seconds()) // 60
            if each.strayed:
                await self._cancel(each, node, report, "that is not the node that it was to go to")
            elif now - each.begun_at > _longest(report):
                await self._cancel(each, node, report, f"it had not ended after {minutes} minutes")

    def _find_report(self, migration: KubeVirtMigration) -> tuple[str | None, VirtualMachineReport | None]:
        """Find a node that reports the VM of a migration, and its report: if there are several, the node it leaves."""
        found = [
            (pressure.metadata.name, report)
            for pressure in self._state.nodes.values()
            if pressure.status is not None
            for report in pressure.status.virtual_machines
            if f"{report.namespace}/{report.name}" == migration.vm
        ]
        return max(found, key=lambda each: each[0] == migration.source, default=(None, None))

    async def _cancel(
        self, migration: KubeVirtMigration, node: str | None, report: VirtualMachineReport | None, why: str
    ) -> None:
        if not self._may_write():
            return
        now = self._state.utc_now()
        try:
            if report is not None:  # first: the migration is the only other trace
                vmi = VMIReference(report.namespace, report.name, report.uid, node)
                await self._annotator.write(vmi, {names.MIGRATION_CANCELLED: now.isoformat(timespec="seconds")})
            await cancel_migration(self._cluster, migration)
        except (ConflictError, NotFoundError):
            return  # it has changed since it was read, or is gone: the next update sees that
        except ApiError as error:
            _log.warning("%s", error)
            self.fault = str(error)
            return
        self._cancelled.append(replace(migration, begun_at=now, ended=True, failed=True))
        note = f"its migration to {migration.target or 'another node'} was cancelled: {why}"
        _log.warning("%s: %s", migration.vm, note)
        if report is not None:
            about = ObjectReference(
                "kubevirt.io/v1", "VirtualMachineInstance", report.name, report.uid, report.namespace
            )
            await self._recorder.post(about, MIGRATION_CANCELLED, note, action=self._event_action, warning=True)
        if migration.source is not None:
            await self._post_about_node(migration.source, MIGRATION_CANCELLED, f"{migration.vm}: {note}", warning=True)


def _longest(report: VirtualMachineReport | None) -> timedelta:
    """Return how long the migration of a VM may take; None is a VM that no agent reports."""
    return _LONGEST if report is None else min(_LONGEST, LONG_UNDER_WAY + _PER_GIB * (report.size / (1 << 30)))
