"""This module finds migrations that would mend nodes whose VMs need more memory than there is, and tells of them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from kubeballoon.cluster.events import EventRecorder, ObjectReference
from kubeballoon.controller.cluster_state import ClusterState
from kubeballoon.core.formatting import listed
from kubeballoon.core.migration import Migration, MigrationNode, MigrationPlan, choose_migrations, migration_node
from kubeballoon.governance.migration_hindrance import migration_hindrances
from kubeballoon.governance.report_bounds import SILENT_AFTER

_log = logging.getLogger(__name__)

WOULD_MIGRATE, NO_MIGRATION_HELPS = "WouldMigrate", "NoMigrationHelps"
"""The reasons of events on Nodes, the first on VMs as well."""

_TOLD_EVERY = 600.0  # seconds at the least, of one node: figures waver, and with them which VMs suffice
_MOST_TOLD = 16  # VMs at one time, of one node: a forged report has a thousand


class MigrationObserver:
    """A MigrationObserver seeks migrations where NodePolicies say so, among the nodes that one policy governs.

    It goes by memory alone: what the scheduler would say of a VM and a node it does not know. It remembers since when
    each node has needed more than it has; a new leader begins anew.
    """

    def __init__(
        self, state: ClusterState, recorder: EventRecorder, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Seek migrations among the nodes of ``state``, and tell of them by ``recorder``; ``clock`` gives seconds."""
        self._state = state
        self._recorder = recorder
        self._clock = clock
        self._contended_at: dict[str, float] = {}  # since when each node has needed more than it has
        self._announced: dict[str, tuple[frozenset[str], float]] = {}  # by node: the uids of VMs told of last, and when

    async def update(self) -> None:
        """Choose anew, and post events about what is chosen otherwise than before."""
        plans: dict[str, MigrationPlan] = {}
        contended_at: dict[str, float] = {}
        for policy, names in self._state.pools().items():
            loaded = self._state.node_policies.policies.get(policy)
            if loaded is None or loaded.migrations is None:
                continue
            nodes = await self._describe(names, contended_at)
            # In a thread, as a large pool with many short nodes takes longer than other tasks may wait.
            plans[policy] = await asyncio.to_thread(choose_migrations, nodes, loaded.migrations)
        self._contended_at = contended_at
        self._state.migration_plans = plans
        await self._tell(plans.values())

    async def _describe(self, names: Iterable[str], contended_at: dict[str, float]) -> list[MigrationNode]:
        """Describe the nodes whose reports hold, and note in ``contended_at`` since when they need more than they have.

        A node that an administrator released is left out: nothing is to be done about its VMs.
        """
        described = []
        for name in names:
            try:
                node = self._node(name)
            except Exception:  # noqa: BLE001 - one node's report must not stop the others; its round says what is wrong
                _log.debug("node %s is left out of the choice of migrations", name, exc_info=True)
                continue
            if node is not None:
                if node.excess:
                    contended_at[name] = self._contended_at.get(name, self._clock())
                    node = replace(node, contended_for=self._clock() - contended_at[name])
                described.append(node)
            await asyncio.sleep(0)
        return described

    def _node(self, name: str) -> MigrationNode | None:
        """Describe a node; None if it is gone, silent or released."""
        now, pressure = self._clock(), self._state.nodes.get(name)
        if pressure is None or pressure.status is None or pressure.metadata.released:
            return None
        if self._state.seconds_since_heard(name, now) > SILENT_AFTER:
            return None
        hindrances = migration_hindrances(pressure.status.virtual_machines)
        memory = self._state.snapshot(name, pressure.status, now)
        return migration_node(memory, hindrances=hindrances, accepts=name not in self._state.taints)

    async def _tell(self, plans: Iterable[MigrationPlan]) -> None:
        """Post events about nodes of which nothing was told, or something else."""
        found: dict[str, list[Migration]] = {}
        unmended: dict[str, str] = {}
        for plan in plans:
            for migration in plan.migrations:
                found.setdefault(migration.source, []).append(migration)
            unmended |= plan.unmended
        now = self._clock()
        self._announced = {name: each for name, each in self._announced.items() if name in found or name in unmended}
        for name in [*found, *unmended]:
            uids = frozenset(each.vm.uid for each in found.get(name, ()))
            before, at = self._announced.get(name, (None, -_TOLD_EVERY))
            if uids != before and now - at >= _TOLD_EVERY:
                self._announced[name] = uids, now
                await self._post(name, found.get(name, ()), unmended)

    async def _post(self, name: str, migrations: Sequence[Migration], unmended: Mapping[str, str]) -> None:
        """Post what would mend a node, or why nothing does; the Node is referred to as the kubelet does."""
        node = ObjectReference("v1", "Node", name, name)
        if not migrations:
            note = f"no migration mends it: {unmended[name]}"
            await self._recorder.post(node, NO_MIGRATION_HELPS, note, action="Migrate", warning=True)
            return
        moves = listed([f"{each.vm.name} to {each.target}" for each in migrations])
        note = f"its NodePolicy only observes; by memory, it would migrate {moves}"
        await self._recorder.post(node, WOULD_MIGRATE, note, action="Migrate")
        for each in migrations[:_MOST_TOLD]:
            namespace, vm = each.vm.name.split("/", 1)
            about = ObjectReference("kubevirt.io/v1", "VirtualMachineInstance", vm, each.vm.uid, namespace)
            note = f"the NodePolicy of its node only observes; by memory, it would migrate it: {each.reason}"
            await self._recorder.post(about, WOULD_MIGRATE, note, action="Migrate")
