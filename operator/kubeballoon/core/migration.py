"""This module chooses which VMs to migrate from nodes whose VMs need more memory than there is, and where to.

Only what balloons cannot mend counts: by then idle memory has been reclaimed from all VMs of the node.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from kubeballoon.core.formatting import human
from kubeballoon.core.memory.model import MemoryNode, MemoryVM
from kubeballoon.vocabulary import NodeState


@dataclass(frozen=True, slots=True)
class MigrationTerms:
    """MigrationTerms are the limits of migrations.

    Attributes:
        after: seconds for which a node must need more than it has before a VM is migrated from it.
        max_migrations: how many migrations may be under way among the nodes that are looked at.
        max_migrations_per_node: how many may be under way from or to one node.
        rest: seconds for which a VM stays where it is after a migration.
    """

    after: float = 300.0
    max_migrations: int = 2
    max_migrations_per_node: int = 1
    rest: float = 3600.0


ADVICE_TERMS = MigrationTerms(after=0.0, max_migrations=1_000, max_migrations_per_node=1_000)
"""The limits where migrations are only named: all that mend a node now, not those that may begin now."""


@dataclass(frozen=True, slots=True)
class MigratableVM:
    """A MigratableVM is a VM that may be migrated, or must not be.

    Attributes:
        uid: the VM's uid.
        name: its namespace and name.
        required: what a node must have for it, bytes: its demand, or all that it may hold if nothing is reclaimed from
            it, and its overhead.
        held: what it holds of its node's memory, bytes: that has to be copied.
        hindrance: why it must not be migrated; None if it may be.
        since_migration: seconds since its last migration.
        request: what its pod requests of the scheduler, bytes; None if as much as is required.
    """

    uid: str
    name: str
    required: int
    held: int
    hindrance: str | None = None
    since_migration: float = float("inf")
    request: int | None = None

    @property
    def requested(self) -> int:
        """What the scheduler must find for it on a node, bytes."""
        return self.required if self.request is None else self.request


@dataclass(frozen=True, slots=True)
class MigrationNode:
    """A MigrationNode is a node as a source or a target of migrations.

    Attributes:
        memory_for_vms: what its VMs may use together, with their overhead, bytes.
        state: how short of memory it is.
        contended_for: seconds for which its VMs have needed more than it has for them.
        accepts: whether the scheduler may place VMs there.
        spare: memory that is available there now beyond the reserve, bytes; None if that does not count.
        requestable: what pods may still request of the scheduler there at the most, bytes; None if that is not known.
        incoming: how many migrations to it are under way.
        outgoing: how many migrations from it are under way.
        received_from: the names of nodes whose VMs were migrated to it lately: its own VMs do not go there.
    """

    name: str
    memory_for_vms: int
    state: NodeState
    vms: tuple[MigratableVM, ...] = ()
    contended_for: float = 0.0
    accepts: bool = True
    spare: int | None = None
    requestable: int | None = None
    incoming: int = 0
    outgoing: int = 0
    received_from: frozenset[str] = frozenset()

    @property
    def required(self) -> int:
        """What a node must have for its VMs together, bytes."""
        return sum(vm.required for vm in self.vms)

    @property
    def excess(self) -> int:
        """By how much its VMs need more than it has for them, bytes."""
        return max(0, self.required - self.memory_for_vms)

    @property
    def reclaimable(self) -> int:
        """What its VMs hold and do not need, so that balloons can make room there, bytes."""
        return sum(max(0, vm.held - vm.required) for vm in self.vms)

    def with_room_made(self) -> MigrationNode:
        """Return the node as it is once all has been reclaimed that its VMs do not need."""
        return self if self.spare is None else replace(self, spare=self.spare + self.reclaimable)


_NO_HINDRANCES: Mapping[str, str] = {}


def migration_node(
    node: MemoryNode,
    contended_for: float = 0.0,
    hindrances: Mapping[str, str] = _NO_HINDRANCES,
    *,
    accepts: bool = True,
    allocatable: int | None = None,
) -> MigrationNode:
    """Describe a node for the choice of migrations.

    A VM that takes no part in ballooning, or does not follow, counts with its size, or with what it holds if that is
    more. One that its agent cannot reach must not be migrated.

    Args:
        node: the node.
        contended_for: seconds for which its VMs have needed more than it has for them.
        hindrances: why VMs must not be migrated, by uid.
        accepts: whether VMs may be migrated to it.
        allocatable: what pods may request of the scheduler there together at the most, bytes; None if that is not
            known. What other pods than VMs' request is not known, so the scheduler may find less.
    """
    memory_for_vms = node.total - node.other - node.reserve
    vms = tuple(_migratable(vm, hindrances.get(vm.uid)) for vm in node.vms if not vm.pooled)
    requestable = None if allocatable is None else max(0, allocatable - sum(vm.requested for vm in vms))
    return MigrationNode(
        node.name, max(0, memory_for_vms), node.state, vms, contended_for, accepts, requestable=requestable
    )


def _migratable(vm: MemoryVM, hindrance: str | None) -> MigratableVM:
    takes_part = vm.policy is not None and vm.excluded is None and not vm.observed
    need = vm.demand if takes_part and vm.responsive else max(vm.size, vm.actual)
    if not vm.responsive:
        hindrance = "its agent cannot move its memory now"
    request = vm.size if vm.pod_request is None else vm.pod_request
    return MigratableVM(
        vm.uid, vm.name, need + vm.overhead, vm.actual + vm.overhead, hindrance, request=request + vm.overhead
    )


@dataclass(frozen=True, slots=True)
class MigrationUnderWay:
    """A MigrationUnderWay has begun and has not ended.

    Attributes:
        vm: the VM's namespace and name.
        target: the node that the VM goes to; None while that is not known.
    """

    vm: str
    target: str | None


def with_migrations_under_way(
    nodes: Iterable[MigrationNode], under_way: Iterable[MigrationUnderWay]
) -> list[MigrationNode]:
    """Count VMs that are being migrated at the nodes that they go to, and no more at those that they leave."""
    targets = {each.vm: each.target for each in under_way}
    nodes = list(nodes)
    found = {vm.name: vm for node in nodes for vm in node.vms if targets.get(vm.name, node.name) != node.name}
    arrived = {vm.name for node in nodes for vm in node.vms if targets.get(vm.name) == node.name}
    arriving: dict[str | None, list[MigratableVM | None]] = {}  # None where it is not known what the VM needs
    for name, target in targets.items():
        if name not in arrived:
            arriving.setdefault(target, []).append(found.get(name))
    return [_with_traffic(node, arriving.get(node.name, []), targets) for node in nodes]


def _with_traffic(
    node: MigrationNode, arriving: Sequence[MigratableVM | None], targets: Mapping[str, str | None]
) -> MigrationNode:
    staying = tuple(vm for vm in node.vms if targets.get(vm.name, node.name) == node.name)
    known = [vm for vm in arriving if vm is not None]
    return replace(
        node,
        vms=staying,
        memory_for_vms=max(0, node.memory_for_vms - sum(vm.required for vm in known)),
        spare=None if node.spare is None else max(0, node.spare - sum(vm.held for vm in known)),
        requestable=None if node.requestable is None else max(0, node.requestable - sum(vm.requested for vm in known)),
        incoming=len(arriving),
        outgoing=len(node.vms) - len(staying),
    )


@dataclass(frozen=True, slots=True)
class ChosenMigration:
    """A ChosenMigration takes a VM from one node to another; its reason is a sentence for an administrator."""

    vm: MigratableVM
    source: str
    target: str
    reason: str


@dataclass(frozen=True, slots=True)
class MigrationPlan:
    """A MigrationPlan says what is done about nodes that need more than they have.

    Attributes:
        migrations: those to begin now.
        unmended: why nodes cannot be mended, by the node's name.
        waiting: the names of nodes that can be mended, but of whose migrations none may begin yet.
        room_needed: what targets have to have free before migrations can begin that are not listed yet, bytes, by the
            target's name. Their own VMs do not need it, but hold it, and a balloon can reclaim it.
    """

    migrations: tuple[ChosenMigration, ...] = ()
    unmended: Mapping[str, str] = field(default_factory=dict)
    waiting: tuple[str, ...] = ()
    room_needed: Mapping[str, int] = field(default_factory=dict)


def choose_migrations(nodes: Sequence[MigrationNode], terms: MigrationTerms) -> MigrationPlan:
    """Choose the fewest migrations after which no node needs more than it has, and of these the cheapest.

    A node is mended as a whole or not at all: where all migrations that its VMs allow would leave it short, none is
    begun. No node is both a source and a target, no VM goes to a node from which VMs came lately, and no target needs
    more than it has afterwards. Of a node's migrations as many are begun as the limits allow; the others are chosen
    anew when those have ended. All of them wait until what their VMs hold is free on the targets, which the plan says:
    guests fill with page cache what they do not need, so next to nothing is free on a node whose VMs have run for long.
    """
    sources = [each for each in nodes if each.excess and each.contended_for >= terms.after and not each.incoming]
    sources.sort(key=lambda each: (-each.state.severity, -each.excess, each.name))
    rooms = _rooms(nodes, terms)
    left = terms.max_migrations - sum(each.outgoing for each in nodes)
    migrations: list[ChosenMigration] = []
    unmended: dict[str, str] = {}
    waiting: list[str] = []
    room_needed: dict[str, int] = {}
    for source in sources:
        open_to_it = {name: room for name, room in rooms.items() if name not in source.received_from}
        chosen = _mend(source, open_to_it, terms)
        if chosen is None:
            unmended[source.name] = _why_not(source, terms, alone=len(nodes) == 1)
            continue
        may_begin = min(left, terms.max_migrations_per_node - source.outgoing)
        if not _take_rooms(chosen, rooms):
            for vm, target in chosen:
                room_needed[target] = room_needed.get(target, 0) + vm.held
            may_begin = 0
        left_before = left
        for vm, target in chosen:
            if may_begin > 0 and rooms[target].migrations > 0:
                migrations.append(_migration(source, vm, target))
                rooms[target].migrations -= 1
                may_begin, left = may_begin - 1, left - 1
        if left == left_before:
            waiting.append(source.name)
    return MigrationPlan(tuple(migrations), unmended, tuple(waiting), room_needed)


@dataclass(slots=True)
class _TargetRoom:
    """A _TargetRoom is what a target has left: bytes for VMs, and migrations that may begin.

    Attributes:
        memory: what its own VMs do not need.
        spare: what is available now; None if that does not count.
        reclaimable: what its own VMs hold and do not need.
        requestable: what may be requested; None if that is not known.
    """

    memory: int
    spare: int | None
    reclaimable: int
    requestable: int | None
    migrations: int

    def fits(self, vm: MigratableVM) -> bool:
        """Whether there is room for a VM once the target's own VMs have given what they do not need."""
        return (
            vm.required <= self.memory
            and (self.spare is None or vm.held <= self.spare + self.reclaimable)
            and (self.requestable is None or vm.requested <= self.requestable)
        )

    def has_free(self, vm: MigratableVM) -> bool:
        """Whether what a VM holds is free now."""
        return self.spare is None or vm.held <= self.spare

    def take(self, vm: MigratableVM) -> None:
        """Set room aside for a VM."""
        self.memory -= vm.required
        if self.spare is not None:
            self.reclaimable -= max(0, vm.held - self.spare)
            self.spare = max(0, self.spare - vm.held)
        if self.requestable is not None:
            self.requestable -= vm.requested


def _rooms(nodes: Iterable[MigrationNode], terms: MigrationTerms) -> dict[str, _TargetRoom]:
    """Find the targets, by name: calm nodes that no VM leaves."""
    return {
        each.name: _TargetRoom(
            each.memory_for_vms - each.required,
            each.spare,
            each.reclaimable,
            each.requestable,
            terms.max_migrations_per_node - each.incoming,
        )
        for each in nodes
        if each.accepts and each.state is NodeState.AMPLE and not each.excess and not each.outgoing
    }


def _mend(
    source: MigrationNode, rooms: Mapping[str, _TargetRoom], terms: MigrationTerms
) -> list[tuple[MigratableVM, str]] | None:
    """Choose VMs whose migration mends a node, each with its target; None if no choice does."""
    migratable = [vm for vm in source.vms if vm.hindrance is None and vm.since_migration >= terms.rest]
    sufficient = sorted((vm for vm in migratable if vm.required >= source.excess), key=lambda vm: (vm.held, vm.name))
    for vm in sufficient:
        target = _target(vm, rooms)
        if target is not None:
            return [(vm, target)]
    left = {name: replace(room) for name, room in rooms.items()}
    chosen: list[tuple[MigratableVM, str]] = []
    missing = source.excess
    # The largest first: so the fewest suffice. Among equal ones the cheapest comes first.
    for vm in sorted(migratable, key=lambda vm: (-vm.required, vm.held, vm.name)):
        target = _target(vm, left)
        if target is None:
            continue
        left[target].take(vm)
        chosen.append((vm, target))
        missing -= vm.required
        if missing <= 0:
            return chosen
    return None


def _take_rooms(chosen: Iterable[tuple[MigratableVM, str]], rooms: Mapping[str, _TargetRoom]) -> bool:
    """Set room aside for all migrations of a node, also for those that begin later; whether all of it is free now."""
    free = True
    for vm, target in chosen:
        free &= rooms[target].has_free(vm)
        rooms[target].take(vm)
    return free


def _target(vm: MigratableVM, rooms: Mapping[str, _TargetRoom]) -> str | None:
    """Find the node with the most room for a VM, at first among those that have it free; None if none has enough."""
    fitting = [(not room.has_free(vm), -room.memory, name) for name, room in rooms.items() if room.fits(vm)]
    return min(fitting)[2] if fitting else None


def _migration(source: MigrationNode, vm: MigratableVM, target: str) -> ChosenMigration:
    reason = (
        f"the VMs of {source.name} need {human(source.excess)} more than it has; {vm.name} needs {human(vm.required)}, "
        f"for which {target} has room"
    )
    return ChosenMigration(vm, source.name, target, reason)


def _why_not(source: MigrationNode, terms: MigrationTerms, *, alone: bool) -> str:
    """Say why a node cannot be mended by migrations; ``alone`` says that no other node is known."""
    migratable = [vm for vm in source.vms if vm.hindrance is None and vm.since_migration >= terms.rest]
    text = f"its VMs need {human(source.excess)} more than it has"
    if not migratable:
        return f"{text}, and none of them may be migrated now"
    if alone:
        return (
            f"{text}, and there is no node to migrate them to: "
            "a target has the same NodePolicy, and an agent that reports"
        )
    return f"{text}, and the other nodes have no room for enough of its {len(migratable)} VMs that may be migrated"
