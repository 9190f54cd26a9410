"""This module migrates VMs from nodes whose VMs need more memory than there is, or tells which it would migrate."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta

from kubeballoon.cluster import paths
from kubeballoon.cluster.client import OBJECT_METADATA_ONLY, ApiClient, ApiError, Object, UnreachableError
from kubeballoon.cluster.events import EventRecorder, ObjectReference
from kubeballoon.cluster.vm_migrations import (
    MigrationWatch,
    create_migration,
)
from kubeballoon.controller.cluster_state import ClusterState
from kubeballoon.controller.migration_canceller import LONG_UNDER_WAY, MigrationCanceller
from kubeballoon.controller.migration_history import MigrationHistory, all_under_way, read_histories, received_from
from kubeballoon.controller.migration_limits import ClusterMigrationLimits
from kubeballoon.controller.node_remedy import NodeRemedy
from kubeballoon.core.formatting import listed
from kubeballoon.core.memory.model import MemoryNode
from kubeballoon.core.migration import (
    ADVICE_TERMS,
    ChosenMigration,
    MigrationNode,
    MigrationPlan,
    MigrationTerms,
    choose_migrations,
    migration_node,
    with_migrations_under_way,
)
from kubeballoon.core.migration_arrival import Arrival, plan_arrival
from kubeballoon.governance.migration_hindrance import migration_hindrances, target_hindrance, vm_hindrance
from kubeballoon.governance.node_policies import LoadedNodePolicy
from kubeballoon.governance.report_bounds import SILENT_AFTER, clamp_memory
from kubeballoon.vocabulary import RemedyMode

_log = logging.getLogger(__name__)

MIGRATES, WOULD_MIGRATE, NO_MIGRATION_HELPS = "Migrates", "WouldMigrate", "NoMigrationHelps"
"""The reasons of events on Nodes; the first two on VMs as well."""

_EVERYTHING = ""  # the key of a refusal that concerns all VMs and nodes
_TARGET_FIELD = "addedNodeSelector"  # named by an API server whose KubeVirt knows no such field
_UNREAD = "no VM is migrated: migrations cannot be read"
_NO_TARGETS = "no VM is migrated: this version of KubeVirt takes no target for a migration"

_ANNOUNCE_EVERY = 600.0  # seconds at the least, of one node: figures waver, and with them which VMs suffice
_ANNOUNCED_VMS = 16  # VMs at one time, of one node: a forged report has a thousand
_REFUSED_FOR = 600.0  # seconds for which a VM, or a target, that was refused is left out
_REQUESTED_WITHIN = 60.0  # seconds in which a VM's request for its new node is written, or another VM is migrated
_STRAYED_FOR = timedelta(hours=1)  # for which nothing is migrated after a migration that went elsewhere


class VMMigrator(NodeRemedy):
    """A VMMigrator seeks migrations where NodePolicies say so, and begins them where these enforce them.

    It seeks them among the nodes that one policy governs. It remembers since when each node has needed more than it
    has; a new leader begins anew. What was migrated, and what failed, KubeVirt's own objects tell.
    """

    _event_action = "Migrate"

    def __init__(
        self,
        cluster: ApiClient,
        state: ClusterState,
        recorder: EventRecorder,
        may_write: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
        enqueue: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Begin without knowing for how long nodes have been contended.

        The arguments are a NodeRemedy's, but for ``enqueue``, which has a round of a node run soon.
        """
        super().__init__(cluster, state, recorder, may_write, clock)
        self._enqueue = enqueue
        self._watch = MigrationWatch(cluster)
        self._canceller = MigrationCanceller(cluster, state, recorder, may_write, clock)
        self._limits = ClusterMigrationLimits(cluster, state.migrations_at_once, clock)
        self._memory: dict[str, MemoryNode] = {}  # the nodes that are described, by name
        self._arrivals: dict[str, Arrival] = {}  # of VMs that are on their way, or about to be, by namespace and name
        # Since when VMs, by uid, have waited for their requests to be written: as of this update, and of the last.
        self._waits_since: dict[str, float] = {}
        self._waited_since: dict[str, float] = {}
        self._contended_at: dict[str, float] = {}  # since when each node has needed more than it has
        self._announced: dict[str, tuple[frozenset[str], float]] = {}  # by node: the uids of VMs told of last, and when
        # Until when VMs (by uid) and targets (by name) are left out after a refusal, or everything (""), and why.
        self._refused: dict[str, tuple[float, str]] = {}

    async def watch(self) -> None:
        """Follow the migrations until cancelled; without the right to make any, there is no need to."""
        if self._state.migrations_enabled:
            await self._watch.run()

    async def update(self) -> None:
        """Choose anew, begin what policies enforce, and post events about what is chosen otherwise than before."""
        plans: dict[str, MigrationPlan] = {}
        faults: dict[str, str] = {}
        contended_at: dict[str, float] = {}
        room_needed: dict[str, int] = {}
        arrivals_before = self._state.arrivals
        self._waited_since, self._waits_since = self._waits_since, {}
        self._memory = {}
        await self._see_to_those_under_way()
        histories = self._histories()
        self._refused = {key: each for key, each in self._refused.items() if each[0] > self._clock()}
        for name, nodes in self._state.pools().items():
            policy = self._state.node_policies.policies.get(name)
            if policy is None or policy.migrations is None:
                continue
            reported = await self._describe(nodes, histories, policy.migrations.rest)
            expected = self._with_contended_time(
                with_migrations_under_way(reported, all_under_way(histories)), contended_at
            )
            if self._enforces(policy):
                plan = await self._enforce(expected, policy.migrations)
                plan = replace(plan, migrations=(*_our_migrations_under_way(reported, histories), *plan.migrations))
                plans[name], room_needed = plan, room_needed | self._room_needed(plan)
                fault = self._fault(reported, histories, policy.migrations)
                faults |= {} if fault is None else {name: fault}
            else:
                terms = replace(ADVICE_TERMS, after=policy.migrations.after)
                plans[name] = await _choose([node.with_room_made() for node in expected], terms)
                await self._announce(plans[name])
        self._contended_at = contended_at
        self._announced = {name: each for name, each in self._announced.items() if name in contended_at}
        self._state.migration_plans = plans
        self._state.migration_faults = faults
        self._let_go(arrivals_before)
        self._make_room(room_needed)

    def _enforces(self, policy: LoadedNodePolicy) -> bool:
        return self._state.migrations_enabled and policy.resource.spec.migration.mode is RemedyMode.ENFORCE

    def _histories(self) -> dict[str, MigrationHistory]:
        return read_histories([*self._watch.migrations(), *self._canceller.cancelled])

    async def _describe(
        self, names: Iterable[str], histories: Mapping[str, MigrationHistory], rest: float
    ) -> list[MigrationNode]:
        """Describe the nodes whose reports hold, but those that an administrator released: their VMs are left alone."""
        described = []
        received = received_from(histories, self._state.utc_now().timestamp() - rest)
        for name in names:
            try:
                node = self._node(name, histories)
            except Exception:  # noqa: BLE001 - one node's report must not stop the others; its round says what is wrong
                _log.debug("node %s is left out of the choice of migrations", name, exc_info=True)
                continue
            if node is not None:
                described.append(replace(node, received_from=received.get(name, node.received_from)))
            await asyncio.sleep(0)
        return described

    def _with_contended_time(
        self, nodes: Sequence[MigrationNode], contended_at: dict[str, float]
    ) -> list[MigrationNode]:
        """Find for how long nodes have needed more than they have; ``contended_at`` takes since when."""
        now = self._clock()
        contended_at |= {node.name: self._contended_at.get(node.name, now) for node in nodes if node.excess}
        return [replace(node, contended_for=now - contended_at.get(node.name, now)) for node in nodes]

    def _node(self, name: str, histories: Mapping[str, MigrationHistory]) -> MigrationNode | None:
        """Describe a node; None if it is gone, silent or released."""
        now, pressure = self._clock(), self._state.nodes.get(name)
        if pressure is None or pressure.status is None or pressure.metadata.released:
            return None
        if self._state.seconds_since_heard(name, now) > SILENT_AFTER:
            return None
        hindrances = migration_hindrances(pressure.status.virtual_machines)
        hindrances |= {uid: why for uid, (_, why) in self._refused.items()}
        memory = self._memory[name] = self._state.snapshot(name, pressure.status, now)
        accepts = name not in self._state.taints and name not in self._refused
        limits = pressure.status.limits
        allocatable = None if limits is None else clamp_memory(limits.capacity)
        node = migration_node(memory, hindrances=hindrances, accepts=accepts, allocatable=allocatable)
        today = self._state.utc_now().timestamp()
        vms = (
            replace(vm, since_migration=histories[vm.name].rested(today)) if vm.name in histories else vm
            for vm in node.vms
        )
        return replace(node, vms=tuple(vms), spare=memory.spare)

    async def _enforce(self, nodes: Sequence[MigrationNode], terms: MigrationTerms) -> MigrationPlan:
        """Begin migrations; return these, and which nodes no migration mends, or none yet."""
        if not self._watch.synced.is_set():
            return MigrationPlan()  # more than the limits allow may be under way
        await self._limits.update()
        under_way = sum(not each.ended for each in self._watch.migrations())
        plan = await _choose(nodes, self._limits.restrict(terms, nodes, under_way))
        await self._announce(replace(plan, migrations=()))
        begun = [] if _EVERYTHING in self._refused else [each for each in plan.migrations if await self._begin(each)]
        held_up = {each.source for each in plan.migrations} - {each.source for each in begun}
        room_needed = Counter(plan.room_needed)
        for each in plan.migrations:
            room_needed[each.target] += 0 if each in begun else each.vm.held
        waiting = (*plan.waiting, *sorted(held_up))
        return replace(plan, migrations=tuple(begun), waiting=waiting, room_needed=room_needed)

    async def _begin(self, migration: ChosenMigration) -> bool:
        """Have KubeVirt migrate a VM; whether it takes that on."""
        uid, target = migration.vm.uid, migration.target
        try:
            node = await self._recheck(migration)
            arrival = None if node is None else self._plan_arrival(migration)
            if node is None or not self._is_requested(migration, arrival) or not self._may_write():
                return False
            memory = None if arrival is None else arrival.memory
            created = await create_migration(self._cluster, migration.vm.name, node, migration.reason, memory)
        except UnreachableError as error:
            self._arrivals.pop(migration.vm.name, None)
            _log.warning("%s", error)
            return False
        except ApiError as error:
            self._arrivals.pop(migration.vm.name, None)
            if _TARGET_FIELD in str(error):
                self._leave_out(_EVERYTHING, _NO_TARGETS)
            else:
                self._leave_out(uid, str(error))
            return False
        except Exception:  # noqa: BLE001 - one node's report must not stop the others; its round says what is wrong
            self._arrivals.pop(migration.vm.name, None)
            _log.debug("%s is not migrated to %s", migration.vm.name, target, exc_info=True)
            self._leave_out(target, f"no VM is migrated to {target}: what a VM would have there cannot be computed")
            return False
        self._watch.add(created)
        await self._post(migration.source, MIGRATES, f"{migration.vm.name} is migrated to {target}", [migration])
        return True

    def _plan_arrival(self, migration: ChosenMigration) -> Arrival | None:
        """Find with how much memory a VM is to arrive; None if with all, or if nothing is to be requested of it."""
        vm = next(each for each in self._memory[migration.source].vms if each.uid == migration.vm.uid)
        others = [each for each in self._arrivals.values() if each.vm != vm.name]
        found = plan_arrival(vm, self._memory[migration.target], others)
        before = self._state.arrivals.get(vm.name)
        if found is None or before is None or before.target != migration.target:
            return found
        # Figures waver: what was requested a moment ago holds as long as the node can give nearly as much.
        return before if before.memory - found.memory <= vm.dead_band else found

    def _is_requested(self, migration: ChosenMigration, arrival: Arrival | None) -> bool:
        """Whether no more is requested of a VM than it is to arrive with; if more is, its node's next round mends that.

        On its way the VM is left alone, so a request that is written later would reach it when it has arrived only.
        """
        if arrival is None:
            return True
        self._arrivals[arrival.vm] = arrival
        self._state.arrivals = {**self._state.arrivals, arrival.vm: arrival}
        uid, now = migration.vm.uid, self._clock()
        request = self._state.requested_memory(migration.source, uid)
        if request is not None and request <= arrival.memory:
            return True
        since = self._waited_since.get(uid, now)
        if now - since >= _REQUESTED_WITHIN:
            self._leave_out(uid, f"{arrival.vm} is not migrated: its request for {arrival.target} was not written")
            del self._arrivals[arrival.vm]
            return False
        self._waits_since[uid] = since
        self._enqueue(migration.source)
        return False

    async def _recheck(self, migration: ChosenMigration) -> Object | None:
        """Read the target's Node; None if it takes no VMs, or if the VM must not be migrated, whatever agents report.

        Raises:
            ApiError: the VM or the Node is gone or cannot be read.
        """
        namespace, name = migration.vm.name.split("/", 1)
        vmi = await self._cluster.get(paths.instance(namespace, name), accept=OBJECT_METADATA_ONLY)
        fault = vm_hindrance(vmi, migration.vm.uid, migration.source)
        if fault is not None:
            self._leave_out(migration.vm.uid, f"{migration.vm.name} is not migrated: {fault}")
            return None
        if self._canceller.recall(migration.vm.name, vmi):
            return None  # the next choice knows that it may have to rest
        node = await self._cluster.get(paths.node(migration.target))
        fault = target_hindrance(node)
        if fault is not None:
            self._leave_out(migration.target, f"no VM is migrated to {migration.target}: {fault}")
            return None
        return node

    def _leave_out(self, key: str, why: str) -> None:
        _log.warning("%s", why)
        self._refused[key] = self._clock() + _REFUSED_FOR, why

    async def _see_to_those_under_way(self) -> None:
        """Cancel our migrations that hang or go astray, and keep what VMs may use where they go."""
        migrations = list(self._watch.migrations())
        if self._state.migrations_enabled and self._watch.synced.is_set():
            await self._canceller.cancel(migrations)
        since = self._state.utc_now() - _STRAYED_FOR
        strayed = [each.vm for each in migrations if each.strayed and each.begun_at > since]
        if strayed and _EVERYTHING not in self._refused:
            moved = listed(sorted(strayed))
            self._leave_out(_EVERYTHING, f"no VM is migrated: KubeVirt took {moved} to another node than it was told")
        self._arrivals = {
            each.vm: Arrival(each.vm, each.target, each.memory)
            for each in migrations
            if each.ours and not each.ended and each.target is not None and each.memory is not None
        }
        self._state.arrivals = {**self._state.arrivals, **self._arrivals}

    def _let_go(self, before: Mapping[str, Arrival]) -> None:
        """Have the requests of VMs that are not migrated after all, or have arrived, decided by their nodes alone."""
        self._state.arrivals = self._arrivals
        gone = before.keys() - self._arrivals.keys()
        for name, pressure in self._state.nodes.items() if gone else ():
            reports = () if pressure.status is None else pressure.status.virtual_machines
            if any(f"{report.namespace}/{report.name}" in gone for report in reports):
                self._enqueue(name)

    def _room_needed(self, plan: MigrationPlan) -> dict[str, int]:
        """Find what targets have to have free, bytes, by name; VMs on their way count until they are seen there."""
        needed = Counter(plan.room_needed)
        for each in plan.migrations:
            target = self._memory.get(each.target)
            if target is not None and all(vm.name != each.vm.name for vm in target.vms):
                needed[each.target] += each.vm.held
        return dict(+needed)

    def _make_room(self, needed: Mapping[str, int]) -> None:
        """Have targets keep so much free, and decide anew soon if they have less."""
        before, self._state.room_needed = self._state.room_needed, needed
        for name, room in needed.items():
            if room != before.get(name) and room > self._memory[name].spare:
                self._enqueue(name)

    def _fault(
        self, nodes: Iterable[MigrationNode], histories: Mapping[str, MigrationHistory], terms: MigrationTerms
    ) -> str | None:
        """Say in one line what keeps a policy from migrating VMs of its nodes as it should; None if nothing does."""
        if not self._watch.synced.is_set():
            return _UNREAD if self._watch.tried else None
        uids = {vm.uid: vm.name for node in nodes for vm in node.vms}
        for key in (_EVERYTHING, *(node.name for node in nodes), *uids):
            if key in self._refused:
                return self._refused[key][1]
        today = self._state.utc_now().timestamp()
        known = {vm: histories[vm] for vm in uids.values() if vm in histories}
        failed = [vm for vm, each in known.items() if each.failures and each.rested(today) < terms.rest]
        if failed:
            return f"the last migration of {listed(sorted(failed))} failed: it is tried again later"
        if self._canceller.fault is not None:
            return self._canceller.fault
        late = [vm for vm, each in known.items() if each.under_way_for(today) > LONG_UNDER_WAY.total_seconds()]
        return f"the migration of {listed(sorted(late))} does not end" if late else None

    async def _announce(self, plan: MigrationPlan) -> None:
        """Post events about nodes of which nothing was posted, or something else."""
        found: dict[str, list[ChosenMigration]] = {}
        for migration in plan.migrations:
            found.setdefault(migration.source, []).append(migration)
        now = self._clock()
        for name in [*found, *plan.unmended]:
            migrations = found.get(name, [])
            uids = frozenset(each.vm.uid for each in migrations)
            before, at = self._announced.get(name, (None, -_ANNOUNCE_EVERY))
            if uids == before or now - at < _ANNOUNCE_EVERY:
                continue
            self._announced[name] = uids, now
            if migrations:
                moves = listed([f"{each.vm.name} to {each.target}" for each in migrations])
                note = f"its NodePolicy only observes; judged by memory alone, it would migrate {moves}"
                await self._post(name, WOULD_MIGRATE, note, migrations)
            else:
                await self._post(name, NO_MIGRATION_HELPS, f"no migration mends it: {plan.unmended[name]}")

    async def _post(self, name: str, reason: str, note: str, migrations: Sequence[ChosenMigration] = ()) -> None:
        """Post an event about a Node, and about each VM that is migrated."""
        await self._post_about_node(name, reason, note, warning=reason == NO_MIGRATION_HELPS)
        for each in migrations[:_ANNOUNCED_VMS]:
            namespace, vm = each.vm.name.split("/", 1)
            about = ObjectReference("kubevirt.io/v1", "VirtualMachineInstance", vm, each.vm.uid, namespace)
            begin = "it is migrated" if reason == MIGRATES else "it would be migrated; the NodePolicy only observes"
            await self._recorder.post(about, reason, f"{begin}: {each.reason}", action=self._event_action)


async def _choose(nodes: Sequence[MigrationNode], terms: MigrationTerms) -> MigrationPlan:
    """Choose in a thread, as a large pool with many short nodes takes longer than other tasks may wait."""
    return await asyncio.to_thread(choose_migrations, nodes, terms)


def _our_migrations_under_way(
    nodes: Iterable[MigrationNode], histories: Mapping[str, MigrationHistory]
) -> list[ChosenMigration]:
    """List our migrations of these nodes' VMs that are under way."""
    return [
        ChosenMigration(vm, node.name, latest.target or "another node", "it is under way")
        for node in nodes
        for vm in node.vms
        if vm.name in histories
        and (latest := histories[vm.name].under_way) is not None
        and latest.ours
        and latest.target != node.name
    ]
