"""This module defines the result of ``diff``, as its JSON and YAML show it."""

from __future__ import annotations

from pydantic import Field

from kubeballoon.api.meta import ApiModel
from kubeballoon.vocabulary import NodeState


class PolicyChange(ApiModel):
    """A PolicyChange says whether a policy would be created, changed, unchanged or deleted."""

    kind: str
    name: str
    change: str


class ProcessorChange(ApiModel):
    """A ProcessorChange compares the processors that a VM would have with the old policies and with the new ones.

    A VM whose policy only observes keeps its processors.

    Attributes:
        now: how many its guest uses at present.
        before: how many it would have with the old policies, once every guest has followed its request; so ``after``
            with the new ones.
        short_before: the same while the node is short of processors; so ``short_after``.
    """

    changed: bool
    policy_before: str | None = None
    policy_after: str | None = None
    now: int
    before: int
    after: int
    short_before: int
    short_after: int
    min_before: int | None = None
    min_after: int | None = None
    reason: str
    message: str


class VirtualMachineChange(ApiModel):
    """A VirtualMachineChange compares the memory that a VM would have with the old policies and with the new ones.

    Amounts are in bytes. A VM whose policy only observes keeps its memory.

    Attributes:
        changed: whether its memory would change; ``processors`` say so for themselves.
        now: what it has at present.
        before: what it would have with the old policies, once every guest has followed its request; so ``after`` with
            the new ones.
        observed: what it would have if a policy that only observes were enforced.
    """

    namespace: str
    name: str
    node: str
    changed: bool
    policy_before: str | None = None
    policy_after: str | None = None
    now: int
    before: int
    after: int
    min_before: int | None = None
    min_after: int | None = None
    observed: int | None = None
    reason: str
    message: str
    processors: ProcessorChange | None = None


# The keys of the amounts that are reclaimed keep the names that they had when the command was called simulate: scripts
# in CI pipelines read them. Hence the aliases in the two classes below.


class ProcessorNodeChange(ApiModel):
    """A ProcessorNodeChange compares a node's processors with the old policies and with the new ones.

    Attributes:
        usage: percent, as is ``stall``.
        reclaimed_before: how many processors the node's VMs would be without.
        short_reclaimed_before: the same while the node is short of processors.
        shortfall_before: by how many the VMs' minimums exceed the node's processors.
    """

    changed: bool
    count: int
    usage: int
    stall: int
    reclaimed_before: int = Field(alias="takenBefore")
    reclaimed_after: int = Field(alias="takenAfter")
    short_reclaimed_before: int = Field(alias="shortTakenBefore")
    short_reclaimed_after: int = Field(alias="shortTakenAfter")
    shortfall_before: int
    shortfall_after: int


class NodeLimitsChange(ApiModel):
    """A NodeLimitsChange compares where a node's states begin with the old NodePolicies and with the new ones, bytes.

    Attributes:
        refused: why the new policy cannot hold on the node.
        tight_before: the available memory below which the node is Tight.
        reserve_before: what is kept free of VMs.
        state_before: the node's state as it is reported.
        state_after: its state as soon as the new policies are carried out.
    """

    changed: bool
    policy_before: str | None = None
    policy_after: str | None = None
    refused: str | None = None
    tight_before: int
    tight_after: int
    reserve_before: int
    reserve_after: int
    state_before: NodeState
    state_after: NodeState


class NodeChange(ApiModel):
    """A NodeChange compares a node's memory with the old policies and with the new ones, bytes.

    Attributes:
        changed: whether its memory would change; ``processors`` and ``limits`` say so for themselves.
        limits: left out if its agent does not report them.
    """

    name: str
    state: str
    changed: bool
    capacity: int
    reclaimed_before: int = Field(alias="reservedBefore")
    reclaimed_after: int = Field(alias="reservedAfter")
    shortfall_before: int
    shortfall_after: int
    risk_before: int
    risk_after: int
    processors: ProcessorNodeChange | None = None
    limits: NodeLimitsChange | None = None


class PlannedMigration(ApiModel):
    """A PlannedMigration is a migration that a NodePolicy would make, or tell of, if a node stays contended as it is.

    Attributes:
        enforced: whether the policy would make it; else it only tells of it.
        after: for how long the node must have been contended by then.
        vm: the VM's namespace and name.
        source: the node that the VM leaves.
        target: the node that the VM goes to.
    """

    policy: str
    enforced: bool
    after: str
    vm: str
    source: str
    target: str


class Comparison(ApiModel):
    """A Comparison says what would change if policies were applied.

    Attributes:
        migrations: those that the new policies would make or tell of, and the old ones would not.
    """

    policies: list[PolicyChange]
    nodes: list[NodeChange]
    virtual_machines: list[VirtualMachineChange]
    migrations: list[PlannedMigration] = Field(default_factory=list)

    @property
    def changes(self) -> bool:
        """Whether any VM or node would change, or a VM be migrated."""
        if any(migration.enforced for migration in self.migrations):
            return True
        return any(map(has_changes, self.virtual_machines)) or any(map(has_changes, self.nodes))

    @property
    def has_larger_shortfall(self) -> bool:
        """Whether the minimums on a node would exceed what it has, by more than they do without the change."""
        return any(
            each.shortfall_after > each.shortfall_before
            for node in self.nodes
            for each in (node, node.processors)
            if each is not None
        )


def has_changes(change: VirtualMachineChange | NodeChange) -> bool:
    """Whether the memory or the processors of a VM or node would change, or where a node's states begin."""
    parts = [change.processors, change.limits if isinstance(change, NodeChange) else None]
    return change.changed or any(part is not None and part.changed for part in parts)
