"""Which VMs are migrated from a node that needs more memory than it has, and where to."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from kubeballoon.core.memory.model import Amount, MemoryNode, MemoryTerms, MemoryVM
from kubeballoon.core.migration import (
    ChosenMigration,
    MigratableVM,
    MigrationNode,
    MigrationTerms,
    MigrationUnderWay,
    choose_migrations,
    migration_node,
    with_migrations_under_way,
)
from kubeballoon.vocabulary import NodeState

GIB = 1 << 30
TERMS = MigrationTerms(after=300, max_migrations=5, max_migrations_per_node=3, rest=3600)


def vm(name: str, need: int, held: int | None = None, *, hindrance: str | None = None) -> MigratableVM:
    """A VM that needs so many GiB, and holds as many unless ``held`` says otherwise."""
    return MigratableVM(name, name, need * GIB, (need if held is None else held) * GIB, hindrance)


def short(*vms: MigratableVM, name: str = "short", capacity: int = 10, seconds: float = 1000) -> MigrationNode:
    """A node of so many GiB that has needed more for a while."""
    return MigrationNode(name, capacity * GIB, NodeState.TIGHT, vms, contended_for=seconds)


def calm(name: str = "calm", capacity: int = 10, *vms: MigratableVM) -> MigrationNode:
    """A node of so many GiB with memory to spare."""
    return MigrationNode(name, capacity * GIB, NodeState.AMPLE, vms)


def moves(*nodes: MigrationNode, terms: MigrationTerms = TERMS) -> list[tuple[str, str, str]]:
    """The migrations as (VM, source, target)."""
    return [(each.vm.name, each.source, each.target) for each in choose_migrations(nodes, terms).migrations]


def test_one_vm_that_suffices_is_moved_and_of_those_the_cheapest() -> None:
    node = short(vm("large", 6), vm("dear", 4, 8), vm("cheap", 4, 3), vm("small", 1), capacity=11)
    assert moves(node, calm()) == [("cheap", "short", "calm")], "4 GiB are missing"


def test_the_fewest_are_moved_where_one_does_not_suffice() -> None:
    node = short(vm("a", 5), vm("b", 5), vm("c", 5), vm("d", 2), vm("e", 2))
    assert moves(node, calm(capacity=10)) == [("a", "short", "calm"), ("b", "short", "calm")]


def test_the_target_with_the_most_room_is_chosen_and_keeps_what_its_own_vms_need() -> None:
    node = short(vm("a", 6), vm("b", 6))
    assert moves(node, calm("full", 10, vm("x", 5)), calm("roomy", 20, vm("y", 8))) == [("a", "short", "roomy")]
    assert moves(node, calm("full", 10, vm("x", 5))) == []


def test_nothing_is_moved_from_a_node_that_is_short_for_a_moment() -> None:
    assert moves(short(vm("a", 12), seconds=299), calm(capacity=20)) == []
    assert moves(short(vm("a", 12), seconds=300), calm(capacity=20)) == [("a", "short", "calm")]


def test_a_vm_that_no_node_has_room_for_keeps_smaller_ones_from_no_node() -> None:
    node = short(vm("huge", 6), vm("a", 3), vm("b", 3), vm("c", 3))
    assert moves(node, calm("one", 3), calm("other", 3)) == [("a", "short", "one"), ("b", "short", "other")]


def test_a_node_that_cannot_be_mended_keeps_no_other_from_being_mended() -> None:
    hopeless, other = short(vm("a", 50), name="hopeless"), short(vm("x", 6), vm("y", 6), name="other")
    assert moves(hopeless, other, calm()) == [("x", "other", "calm")]


def test_no_node_is_both_source_and_target() -> None:
    node = short(vm("a", 6), vm("b", 6))
    assert moves(node, replace(calm(capacity=20), outgoing=1)) == []
    assert moves(replace(node, incoming=1), calm(capacity=20)) == []
    assert moves(node, replace(calm(capacity=20), state=NodeState.TIGHT)) == []


def test_a_node_that_the_scheduler_refuses_or_has_given_away_is_no_target() -> None:
    node = short(vm("a", 6), vm("b", 6))
    assert moves(node, replace(calm(capacity=20), accepts=False)) == []
    assert moves(node, replace(calm(capacity=20), requestable=5 * GIB)) == []
    assert moves(node, replace(calm(capacity=20), requestable=6 * GIB)) == [("a", "short", "calm")]


def test_a_vm_that_must_not_be_moved_or_has_just_been_stays() -> None:
    node = short(vm("pinned", 6, hindrance="a device is passed through"), replace(vm("fresh", 6), since_migration=3599))
    plan = choose_migrations([node, calm(capacity=20)], TERMS)
    assert (plan.migrations, "none of them may be migrated now" in plan.unmended["short"]) == ((), True)
    rested = replace(node, vms=(node.vms[0], replace(node.vms[1], since_migration=3600)))
    assert moves(rested, calm(capacity=20)) == [("fresh", "short", "calm")]


def test_a_node_that_migrations_cannot_mend_is_left_alone_and_named() -> None:
    node = short(vm("a", 8), vm("b", 8), vm("c", 8))
    plan = choose_migrations([node, calm(capacity=9)], TERMS)
    assert plan.migrations == ()
    assert plan.unmended["short"].startswith("its VMs need 14 GiB more than it has, and the other nodes have no room")


def test_of_several_migrations_as_many_begin_as_the_limits_allow() -> None:
    node = short(vm("a", 5), vm("b", 5), vm("c", 5), vm("d", 5))
    target = calm(capacity=30)
    assert len(moves(node, target)) == 2
    assert len(moves(node, target, terms=replace(TERMS, max_migrations_per_node=2, max_migrations=1))) == 1
    assert len(moves(replace(node, outgoing=2), target)) == 1
    assert len(moves(node, replace(target, incoming=2))) == 1
    assert moves(node, replace(target, incoming=3)) == []
    default = MigrationTerms()
    assert len(moves(node, target, terms=default)) == 1, "the next begins when this one has ended"
    other = short(vm("x", 6), vm("y", 6), name="other")
    busy = replace(calm("busy"), outgoing=4)
    assert len(moves(node, other, busy, calm("t", 90), terms=TERMS)) == 1, "one of five is left"


def test_a_migration_says_why_it_is_made() -> None:
    (made,) = choose_migrations([short(vm("shop/a", 6), vm("shop/b", 6)), calm()], TERMS).migrations
    assert made.reason == ("the VMs of short need 2 GiB more than it has; shop/a needs 6 GiB, for which calm has room")


def test_a_target_needs_as_much_available_as_a_vm_holds() -> None:
    node = short(vm("a", 6, held=7), vm("b", 6, held=8))
    assert moves(node, replace(calm(capacity=20), spare=6 * GIB)) == []
    assert moves(node, replace(calm(capacity=20), spare=7 * GIB)) == [("a", "short", "calm")]
    several = short(vm("a", 5), vm("b", 5), vm("c", 5))
    assert moves(replace(several, memory_for_vms=5 * GIB), replace(calm(capacity=20), spare=9 * GIB)) == []


def test_a_target_is_told_what_to_have_free_before_its_migrations_begin() -> None:
    full = calm("calm", 20, vm("x", 1, held=2))
    node, target = short(vm("a", 6, held=7), vm("b", 6, held=8)), replace(full, spare=6 * GIB)
    plan = choose_migrations([node, target], TERMS)
    assert (plan.migrations, plan.unmended, plan.room_needed) == ((), {}, {"calm": 7 * GIB})
    plan = choose_migrations([node, replace(target, spare=7 * GIB)], TERMS)
    assert (len(plan.migrations), plan.room_needed) == (1, {})
    roomy = replace(calm("roomy", 30, vm("y", 1, held=20)), spare=0)
    begun = moves(node, roomy, replace(target, spare=7 * GIB))
    assert begun == [("a", "short", "calm")], "it need not wait there"


def test_no_target_gives_more_of_its_memory_than_its_own_vms_leave_idle() -> None:
    node, target = short(vm("a", 6, held=16), vm("b", 6, held=16)), calm("calm", 20, vm("x", 5, held=19))
    plan = choose_migrations([node, replace(target, spare=GIB)], TERMS)
    assert (plan.room_needed, list(plan.unmended)) == ({}, ["short"]), "16 GiB are held, and 15 are idle or free"
    plan = choose_migrations([node, replace(target, spare=2 * GIB)], TERMS)
    assert (plan.room_needed, plan.waiting) == ({"calm": 16 * GIB}, ("short",))
    assert moves(node, replace(target, spare=2 * GIB).with_room_made()) == [("a", "short", "calm")]
    assert target.with_room_made() == target, "what is available does not count"


def test_a_vm_on_its_way_counts_where_it_goes() -> None:
    source, target = short(vm("a", 6), vm("b", 6)), replace(calm(capacity=20), spare=10 * GIB)
    left, arrived = with_migrations_under_way([source, target], [MigrationUnderWay("a", "calm")])
    assert ([each.name for each in left.vms], left.outgoing, left.incoming, left.excess) == (["b"], 1, 0, 0)
    assert (arrived.memory_for_vms, arrived.spare, arrived.incoming, arrived.outgoing) == (14 * GIB, 4 * GIB, 1, 0)
    left, unchanged = with_migrations_under_way([source, target], [MigrationUnderWay("a", None)])
    assert (left.outgoing, unchanged) == (1, target)
    _, arrived = with_migrations_under_way([source, target], [MigrationUnderWay("from elsewhere", "calm")])
    assert (arrived.memory_for_vms, arrived.spare, arrived.incoming) == (20 * GIB, 10 * GIB, 1)
    target = replace(target, vms=(vm("a", 6),))
    assert with_migrations_under_way([target], [MigrationUnderWay("a", "calm")]) == [target], "it has arrived"


VMS = st.lists(
    st.tuples(st.integers(1, 8), st.integers(0, 9), st.booleans(), st.sampled_from([0.0, 9999.0])), max_size=5
)
NODES = st.lists(
    st.tuples(
        st.integers(1, 24),
        VMS,
        st.sampled_from(NodeState),
        st.sampled_from([0.0, 1000.0]),
        st.booleans(),
        st.none() | st.integers(0, 20),
        st.sampled_from([0, 0, 0, 1]),
        st.sampled_from([0, 0, 0, 1]),
    ),
    max_size=5,
).map(
    lambda drawn: [
        MigrationNode(
            f"n{number}",
            capacity * GIB,
            state,
            tuple(
                replace(
                    vm(f"n{number}/v{index}", need, held, hindrance="x" if stays else None),
                    since_migration=since_migration,
                )
                for index, (need, held, stays, since_migration) in enumerate(vms)
            ),
            contended_for,
            accepts,
            None if requestable is None else requestable * GIB,
            incoming,
            outgoing,
        )
        for number, (capacity, vms, state, contended_for, accepts, requestable, incoming, outgoing) in enumerate(drawn)
    ]
)
LIMITS = st.builds(MigrationTerms, max_migrations=st.integers(0, 4), max_migrations_per_node=st.integers(1, 3))


@given(NODES, LIMITS)
def test_no_migration_makes_a_node_short_and_none_goes_both_ways(
    nodes: list[MigrationNode], terms: MigrationTerms
) -> None:
    plan = choose_migrations(nodes, terms)
    by_name = {each.name: each for each in nodes}
    sources, targets = {each.source for each in plan.migrations}, {each.target for each in plan.migrations}
    assert not sources & targets
    assert len({each.vm.uid for each in plan.migrations}) == len(plan.migrations)
    for name in targets:
        node = by_name[name]
        arriving = sum(each.vm.required for each in plan.migrations if each.target == name)
        assert node.required + arriving <= node.memory_for_vms
        assert node.requestable is None or arriving <= node.requestable
        assert node.accepts
        assert (node.state, node.outgoing) == (NodeState.AMPLE, 0)
    for each in plan.migrations:
        node = by_name[each.source]
        assert node.excess
        assert node.contended_for >= terms.after
        assert node.incoming == 0
        assert each.vm in node.vms
        assert each.vm.hindrance is None
        assert each.vm.since_migration >= terms.rest


def test_no_vm_goes_where_vms_of_its_node_came_from_lately() -> None:
    node = replace(short(vm("a", 6), vm("b", 6)), received_from=frozenset({"roomy"}))
    assert moves(node, calm("roomy", 20), calm("other", 10)) == [("a", "short", "other")]
    assert moves(node, calm("roomy", 20)) == []


def test_a_node_that_the_limits_let_wait_is_named() -> None:
    nodes = [short(vm("a", 6), vm("b", 6)), short(vm("c", 6), vm("d", 6), name="too"), calm(capacity=20)]
    plan = choose_migrations(nodes, replace(TERMS, max_migrations=1))
    assert ([each.source for each in plan.migrations], plan.waiting) == (["short"], ("too",))
    assert choose_migrations(nodes, TERMS).waiting == ()


def test_a_target_has_room_for_what_a_vm_s_pod_requests_too() -> None:
    node = short(replace(vm("a", 6), request=8 * GIB), vm("b", 6, hindrance="no"))
    assert moves(node, replace(calm(), requestable=8 * GIB)) == [("a", "short", "calm")]
    assert moves(node, replace(calm(), requestable=8 * GIB - 1)) == []
    (_, arrived) = with_migrations_under_way(
        [node, replace(calm(), requestable=9 * GIB)], [MigrationUnderWay("a", "calm")]
    )
    assert arrived.requestable == GIB


def test_what_may_still_be_requested_on_a_node_is_what_its_vms_pods_leave() -> None:
    vms = (
        MemoryVM("1", "a", 8 * GIB, 5 * GIB, overhead=GIB, pod_request=4 * GIB),
        MemoryVM("2", "b", 8 * GIB, 5 * GIB),
        MemoryVM("3", "c", 8 * GIB, 5 * GIB, pooled=True),
    )
    node = MemoryNode("n", 32 * GIB, 2 * GIB, other=0, reserve=0, vms=vms)
    found = migration_node(node, allocatable=20 * GIB)
    assert ([each.requested for each in found.vms], found.requestable) == ([5 * GIB, 8 * GIB], 7 * GIB)
    assert migration_node(node, allocatable=12 * GIB).requestable == 0
    assert migration_node(node).requestable is None


def test_the_only_node_says_what_another_would_have_to_be() -> None:
    plan = choose_migrations([short(vm("a", 6), vm("b", 6))], TERMS)
    assert plan.unmended["short"].endswith(
        "there is no node to migrate them to: a target has the same NodePolicy, and an agent that reports"
    )


@given(NODES, LIMITS)
def test_the_limits_hold_with_the_migrations_that_are_under_way(
    nodes: list[MigrationNode], terms: MigrationTerms
) -> None:
    chosen = choose_migrations(nodes, terms).migrations
    assert len(chosen) <= max(0, terms.max_migrations - sum(each.outgoing for each in nodes))
    leaving, arriving = Counter(each.source for each in chosen), Counter(each.target for each in chosen)
    for node in nodes:
        assert leaving[node.name] <= max(0, terms.max_migrations_per_node - node.outgoing)
        assert arriving[node.name] <= max(0, terms.max_migrations_per_node - node.incoming)


@given(st.lists(st.tuples(st.integers(1, 8), st.integers(0, 9)), min_size=1, max_size=6), st.integers(1, 24))
def test_where_there_is_room_the_fewest_vms_are_moved_and_a_single_one_is_the_cheapest(
    sizes: list[tuple[int, int]], capacity: int
) -> None:
    vms = [vm(f"v{number}", need, held) for number, (need, held) in enumerate(sizes)]
    node = short(*vms, capacity=capacity)
    unlimited = MigrationTerms(max_migrations=99, max_migrations_per_node=99)
    chosen: tuple[ChosenMigration, ...] = choose_migrations([node, calm(capacity=99)], unlimited).migrations
    if not node.excess:
        assert chosen == ()
        return
    mending = [
        some
        for size in range(1, len(vms) + 1)
        for some in combinations(vms, size)
        if sum(each.required for each in some) >= node.excess
    ]
    fewest = min(map(len, mending))
    assert len(chosen) == fewest
    assert sum(each.vm.required for each in chosen) >= node.excess
    if fewest == 1:
        assert chosen[0].vm.held == min(some[0].held for some in mending if len(some) == 1)


def test_a_vm_that_has_rested_just_long_enough_counts_among_those_that_may_be_moved() -> None:
    node = short(replace(vm("a", 8), since_migration=3600), vm("b", 8), vm("c", 8))
    plan = choose_migrations([node, calm(capacity=9)], TERMS)
    assert "enough of its 3 VMs" in plan.unmended["short"]


def test_a_node_has_for_vms_what_others_do_not_use_and_what_is_not_kept_free() -> None:
    policy = MemoryTerms("p", minimum=Amount(percent=50), headroom=Amount(0))
    vms = (
        MemoryVM("1", "a", 8 * GIB, 5 * GIB, overhead=GIB, need=6 * GIB, policy=policy),
        MemoryVM("2", "b", 8 * GIB, 5 * GIB, need=6 * GIB, policy=policy, responsive=False),
        MemoryVM("3", "c", 8 * GIB, 5 * GIB, need=6 * GIB),
        MemoryVM("4", "d", 8 * GIB, 5 * GIB, need=6 * GIB, policy=policy, pooled=True),
    )
    node = migration_node(MemoryNode("n", 32 * GIB, 2 * GIB, other=3 * GIB, reserve=GIB, vms=vms), 60, {"1": "no"})
    assert (node.memory_for_vms, node.contended_for, node.accepts) == (28 * GIB, 60, True)
    assert node.vms == (
        MigratableVM("1", "a", 7 * GIB, 6 * GIB, "no", request=9 * GIB),
        MigratableVM("2", "b", 8 * GIB, 5 * GIB, "its agent cannot move its memory now", request=8 * GIB),
        MigratableVM("3", "c", 8 * GIB, 5 * GIB, None, request=8 * GIB),
    )
    beyond = MemoryNode("n", 4 * GIB, 0, other=4 * GIB, reserve=GIB, vms=())
    assert migration_node(beyond).memory_for_vms == 0
