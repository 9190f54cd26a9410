"""What `status` says of nodes whose VMs need more memory than there is."""

from __future__ import annotations

from kubeballoon.cli.migration_advice import advise_migrations
from kubeballoon.core.memory.model import Amount, MemoryNode, MemoryTerms, MemoryVM
from kubeballoon.core.migration import MigrationNode, migration_node

GIB = 1 << 30
POLICY = MemoryTerms("p", minimum=Amount(percent=50), headroom=Amount(0))


def vm(name: str, need: int, policy: MemoryTerms | None = POLICY) -> MemoryVM:
    """A VM of 8 GiB that holds 5 GiB, and works with ``need`` GiB."""
    return MemoryVM(name, f"shop/{name}", 8 * GIB, 5 * GIB, overhead=GIB // 4, need=need * GIB, policy=policy)


def node(name: str, *vms: MemoryVM, hindrances: dict[str, str] | None = None) -> MigrationNode:
    """A node of 16 GiB, of which 15 GiB are for VMs."""
    memory = MemoryNode(name, 16 * GIB, 2 * GIB, other=0, reserve=GIB, vms=vms)
    return migration_node(memory, hindrances=hindrances or {})


def test_the_migration_that_mends_a_node_is_named_with_its_target() -> None:
    advice = advise_migrations([node("a", vm("x", 7), vm("y", 6), vm("z", 5)), node("b", vm("w", 6)), node("c")])
    assert advice == {"a": "by memory, it would help to migrate shop/x to c"}


def test_a_vm_that_must_not_be_migrated_is_not_named() -> None:
    full = node("a", vm("x", 7), vm("y", 6), vm("z", 5), hindrances={"x": "KubeVirt cannot migrate it"})
    assert advise_migrations([full, node("c")]) == {"a": "by memory, it would help to migrate shop/y to c"}


def test_a_node_that_has_what_its_vms_need_gets_no_advice() -> None:
    assert advise_migrations([node("a", vm("x", 7), vm("y", 7)), node("b")]) == {}


def test_where_no_node_has_room_that_is_said() -> None:
    full = node("b", vm("v", 7), vm("w", 7))
    advice = advise_migrations([node("a", vm("x", 7), vm("y", 6), vm("z", 5)), full])
    assert advice["a"].startswith(
        "no migration mends it: its VMs need 3.75 GiB more than it has, and the other nodes have no"
    )


def test_a_vm_that_nothing_is_reclaimed_from_needs_all_that_it_may_use() -> None:
    alone = node("a", vm("x", 1, policy=None), vm("y", 1, policy=None))
    assert advise_migrations([alone, node("c")]) == {"a": "by memory, it would help to migrate shop/x to c"}
