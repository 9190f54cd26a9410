"""Migrations that mend nodes: which the controller begins, or only tells of, with an API server that is a fake."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kubeballoon.api.v1alpha1 import NodePressure, NodePressureStatus
from kubeballoon.cluster.client import ApiError, ForbiddenError, InvalidError, Object, UnreachableError
from kubeballoon.controller.cluster_state import ClusterState
from kubeballoon.controller.vm_migrator import VMMigrator
from kubeballoon.core.memory.model import MemoryNode
from kubeballoon.governance.report_bounds import SILENT_AFTER
from kubeballoon.vocabulary import TaintEffect
from tests.support.cluster import memory_policy, node_policy
from tests.support.waiting import soon

TODAY = datetime(2026, 1, 1, tzinfo=UTC)
READY = {"kubernetes.io/hostname": "free.example.com", "kubevirt.io/schedulable": "true"}


class FakeApi:
    """An API server with Nodes, and migrations that are created."""

    def __init__(self) -> None:
        self.labels: dict[str, str] = READY
        self.cordoned = False
        self.listed = 0
        self.runs: dict[str, str] = {}  # where VMs run that do not run where they are reported
        self.annotations: dict[str, str] = {}  # of all VMs
        self.fails: Exception | None = None
        self.created: list[Object] = []

    async def get(self, path: str, accept: str = "") -> Object:
        """Get a VM's metadata, or a Node."""
        if "PartialObjectMetadata" in accept:
            name = path.removeprefix("/apis/kubevirt.io/v1/namespaces/shop/virtualmachineinstances/")
            labels = {"kubevirt.io/nodeName": self.runs.get(name, name.rsplit("-", 1)[0])}
            return {"metadata": {"uid": name, "labels": labels, "annotations": self.annotations}}
        name = path.removeprefix("/api/v1/nodes/")
        return {"metadata": {"name": name, "labels": self.labels}, "spec": {"unschedulable": self.cordoned}}

    async def pages(self, *_: object, **__: object) -> AsyncIterator[Object]:
        """Refuse to list migrations."""
        self.listed += 1
        if self.listed:
            raise ForbiddenError("may not list migrations")
        yield {}

    async def create(self, path: str, body: Object, *, strict: bool) -> Object:
        """Create a migration, or fail."""
        assert (path, strict) == ("/apis/kubevirt.io/v1/namespaces/shop/virtualmachineinstancemigrations", True)
        if self.fails is not None:
            raise self.fails
        self.created.append(body)
        number = str(len(self.created))
        metadata = {"name": number, "uid": number, "creationTimestamp": TODAY.isoformat(), **body["metadata"]}
        return {**body, "metadata": metadata}


class Recorder:
    """Keeps events."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, str]] = []

    async def post(self, about: Any, reason: str, note: str, **_: object) -> None:
        """Keep an event."""
        self.events.append((f"{about.kind}/{about.name}", reason, note))


def policy(name: str = "all", pool: str | None = None, **migration: Any) -> Object:
    """A NodePolicy that seeks migrations after a minute."""
    selector = {} if pool is None else {"nodeSelector": {"matchLabels": {"pool": pool}}}
    spec = {"mode": "Observe", "after": "60s", **migration}
    made = node_policy(name, selector=selector, priority=int(pool is not None), migration=spec)
    made["metadata"] |= {"uid": name, "resourceVersion": "1"}
    return made


class Loop:
    """A migrator with its clock and the nodes' reports, of nodes with 15 GiB for VMs of 8 GiB that hold 5 GiB."""

    def __init__(self, *policies: Object, enabled: bool = True) -> None:
        self.now = 0.0
        self.leads = True
        self.api = FakeApi()
        self.recorder = Recorder()
        self.state = ClusterState(migrations_enabled=enabled, utc_now=lambda: TODAY + timedelta(seconds=self.now))
        for each in policies:
            self.state.node_policies.put(each)
        vms = memory_policy("vms", memory={"min": "10%", "headroom": "0"})
        vms["metadata"] |= {"uid": "vms", "resourceVersion": "1"}
        self.state.memory.put(vms)
        api: Any = self.api
        recorder: Any = self.recorder
        self.migrator = VMMigrator(api, self.state, recorder, lambda: self.leads, lambda: self.now)
        self.watch = self.migrator._watch  # noqa: SLF001 - tests stand in for the API server's answers
        self.watch.synced.set()
        self._reports = 0

    def kubevirt(self, vm: str, phase: str, number: int = 1, target: str | None = None, begun: float = 0.0) -> None:
        """Have KubeVirt say how a migration fares."""
        at = (TODAY + timedelta(seconds=begun)).isoformat()
        metadata: Object = {"name": f"m{number}", "namespace": "shop", "uid": str(number), "creationTimestamp": at}
        if target is not None:
            metadata["annotations"] = {"kubeballoon.io/target-node": target}
        self.watch.add({"metadata": metadata, "spec": {"vmiName": vm}, "status": {"phase": phase}})

    def moved(self) -> list[str]:
        """Return the names of the VMs of which migrations were made."""
        return [each["spec"]["vmiName"] for each in self.api.created]

    def report(
        self,
        name: str,
        *needs: int,
        state: str = "Ample",
        pool: str = "",
        available: str = "12Gi",
        released: bool = False,
        **vm: Any,
    ) -> None:
        """Let an agent report VMs that work with so many GiB."""
        self._reports += 1
        vms = [
            {
                "uid": f"{name}-{number}",
                "namespace": "shop",
                "name": f"{name}-{number}",
                "size": "8Gi",
                "actual": "5Gi",
                "need": f"{need}Gi",
                "presentNeed": f"{need}Gi",
                "migratability": "Migratable",
                **vm,
            }
            for number, need in enumerate(needs)
        ]
        status = {
            "observedAt": f"2026-01-01T00:{self._reports // 60:02}:{self._reports % 60:02}Z",
            "state": state,
            "labels": {"pool": pool},
            "memory": {"total": "16Gi", "available": available, "other": "0", "reserve": "1Gi"},
            "virtualMachines": vms,
            "conditions": [],
        }
        metadata: Object = {"name": name, "uid": name, "resourceVersion": str(self._reports)}
        if released:
            metadata["annotations"] = {"kubeballoon.io/release": "true"}
        self.state.put_node(NodePressure.model_validate({"metadata": metadata, "status": status}).to_wire(), self.now)

    async def wait(self, seconds: float) -> None:
        """Let time pass, and the migrator choose after it."""
        self.now += seconds
        await self.migrator.update()

    def told(self) -> list[tuple[str, str]]:
        """Return about what events were posted, and their reasons."""
        return [(about, reason) for about, reason, _ in self.recorder.events]

    def moves(self, policy: str = "all") -> list[tuple[str, str, str]]:
        """Return the migrations that a policy would make."""
        plan = self.state.migration_plans[policy]
        return [(each.vm.name, each.source, each.target) for each in plan.migrations]


async def test_a_node_that_stays_contended_is_told_of_once_with_the_vm_and_its_target() -> None:
    loop = Loop(policy())
    loop.report("full", 7, 6, 5)
    loop.report("free")
    await loop.wait(0)
    await loop.wait(59)
    assert (loop.moves(), loop.told()) == ([], [])
    await loop.wait(1)
    assert loop.moves() == [("shop/full-0", "full", "free")]
    await loop.wait(15)
    assert loop.told() == [("Node/full", "WouldMigrate"), ("VirtualMachineInstance/full-0", "WouldMigrate")]
    of_node, of_vm = (note for _, _, note in loop.recorder.events)
    assert of_node == "its NodePolicy only observes; by memory, it would migrate shop/full-0 to free"
    assert of_vm.endswith(
        "the VMs of full need 3 GiB more than it has; shop/full-0 needs 7 GiB, for which free has room"
    )
    assert loop.moved() == []


async def test_a_node_that_was_contended_for_moments_only_begins_anew() -> None:
    loop = Loop(policy())
    loop.report("free")
    for _ in range(3):
        loop.report("full", 7, 6, 5)
        await loop.wait(0)
        await loop.wait(59)
        loop.report("full", 7, 6)
        await loop.wait(1)
    assert (loop.moves(), loop.told()) == ([], [])


async def test_where_no_migration_helps_that_is_said() -> None:
    loop = Loop(policy())
    loop.report("full", 7, 6, 5)
    await loop.wait(0)
    await loop.wait(60)
    ((about, reason, note),) = loop.recorder.events
    assert (about, reason) == ("Node/full", "NoMigrationHelps")
    assert note.startswith("no migration mends it: its VMs need 3 GiB more than it has")


@pytest.mark.parametrize(
    "vm",
    [
        {"migratability": "NotMigratable"},
        {"migratability": "External"},
        {"migratability": None},
        {"migratability": "AsANewerAgentSays"},
        {"ownerExcluded": True},
        {"responsive": False, "reason": "Migrating"},
    ],
)
async def test_a_vm_that_may_not_be_migrated_is_not_chosen(vm: Object) -> None:
    loop = Loop(policy())
    loop.report("full", 7, 6, 5, **vm)
    loop.report("free")
    await loop.wait(0)
    await loop.wait(60)
    assert loop.moves() == []
    assert "none of them may be moved now" in loop.state.migration_plans["all"].unmended["full"]


async def test_only_nodes_of_the_same_policy_are_targets_and_only_while_they_may_be_used() -> None:
    loop = Loop(policy(), policy("own", "own"))
    loop.report("full", 7, 6, 5)
    loop.report("other", pool="own")
    loop.report("tight", state="Tight")
    loop.report("tainted")
    loop.report("let-go", released=True)
    loop.state.taints = {"tainted": TaintEffect.PREFER_NO_SCHEDULE}
    await loop.wait(0)
    await loop.wait(60)
    assert loop.moves() == []
    loop.state.taints = {}
    await loop.wait(15)
    assert loop.moves() == [("shop/full-0", "full", "tainted")]


async def test_silent_and_released_nodes_are_neither_sources_nor_targets() -> None:
    loop = Loop(policy())
    loop.report("full", 7, 6, 5, released=True)
    loop.report("free")
    await loop.wait(0)
    await loop.wait(60)
    assert loop.moves() == []
    loop.report("full", 7, 6, 5)
    await loop.wait(SILENT_AFTER - 60)
    loop.report("full", 7, 6, 5)
    await loop.wait(60)
    assert loop.moves() == [], "the agent of the free node is silent"
    loop.report("free")
    await loop.wait(1)
    assert loop.moves() == [("shop/full-0", "full", "free")]


async def test_another_choice_is_told_after_ten_minutes_at_the_soonest() -> None:
    loop = Loop(policy())
    loop.report("full", 7, 6, 5)
    loop.report("free")
    await loop.wait(0)
    await loop.wait(60)
    first = loop.told()
    await loop.wait(10)
    loop.report("full", 1, 8, 8)
    await loop.wait(100)
    loop.report("free")
    assert (loop.moves(), loop.told()) == ([("shop/full-1", "full", "free")], first)
    for _ in range(10):
        loop.report("full", 1, 8, 8)
        loop.report("free")
        await loop.wait(50)
    assert loop.told()[2:] == [("Node/full", "WouldMigrate"), ("VirtualMachineInstance/full-1", "WouldMigrate")]


async def test_without_a_policy_that_observes_nothing_is_sought() -> None:
    loop = Loop(policy(mode="Off"))
    loop.report("full", 7, 6, 5)
    loop.report("free")
    await loop.wait(0)
    await loop.wait(600)
    assert (loop.state.migration_plans, loop.told()) == ({}, [])


async def test_a_report_that_breaks_the_choice_costs_its_own_node_only(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop(policy())
    intact = ClusterState.snapshot

    def snapshot(state: ClusterState, name: str, status: NodePressureStatus, now: float) -> MemoryNode:
        if name == "broken":
            raise OverflowError
        return intact(state, name, status, now)

    monkeypatch.setattr(ClusterState, "snapshot", snapshot)
    loop.report("broken", 7, 6, 5)
    loop.report("full", 7, 6, 5)
    loop.report("free")
    await loop.wait(0)
    await loop.wait(60)
    assert loop.moves() == [("shop/full-0", "full", "free")]


def enforcing(*needs: int, **migration: Any) -> Loop:
    """A loop of a policy that enforces, with a node whose VMs need more than it has, and a free one."""
    loop = Loop(policy(mode="Enforce", **migration))
    loop.report("full", *needs or (7, 6, 5))
    loop.report("free")
    return loop


async def contend(loop: Loop) -> None:
    """Let the full node be contended for as long as the policy says."""
    await loop.wait(0)
    await loop.wait(60)


async def test_a_vm_is_migrated_to_the_node_that_was_chosen_and_to_no_other() -> None:
    loop = enforcing()
    await loop.wait(0)
    await loop.wait(59)
    assert loop.moved() == []
    await loop.wait(1)
    (made,) = loop.api.created
    assert made["spec"] == {"vmiName": "full-0", "addedNodeSelector": {"kubernetes.io/hostname": "free.example.com"}}
    assert made["metadata"]["annotations"]["kubeballoon.io/target-node"] == "free"
    assert made["metadata"]["annotations"]["kubeballoon.io/reason"].startswith("the VMs of full need 3 GiB more")
    assert loop.told() == [("Node/full", "Migrates"), ("VirtualMachineInstance/full-0", "Migrates")]
    for _ in range(2):
        await loop.wait(60)
    assert (loop.moved(), loop.moves()) == (["full-0"], [("shop/full-0", "full", "free")])


async def test_without_the_right_to_migrate_an_enforcing_policy_only_tells() -> None:
    loop = Loop(policy(mode="Enforce"), enabled=False)
    loop.report("full", 7, 6, 5)
    loop.report("free")
    await loop.migrator.watch()
    await contend(loop)
    assert (loop.moved(), loop.told()[0]) == ([], ("Node/full", "WouldMigrate"))


async def test_a_vm_on_its_way_counts_at_its_target_and_the_limits_count_it_too() -> None:
    loop = enforcing(maxMigrations=1)
    loop.report("second", 7, 6, 5)
    loop.report("spare")
    await contend(loop)
    assert loop.moved() == ["full-0"]
    loop.kubevirt("full-0", "Succeeded", target="free")
    loop.report("full", 6, 5)
    loop.report("free", 7)
    await loop.wait(15)
    assert (loop.moved(), loop.moves()) == (["full-0", "second-0"], [("shop/second-0", "second", "spare")])


async def test_somebody_else_s_migration_that_suffices_is_waited_for() -> None:
    loop = enforcing()
    loop.kubevirt("full-0", "Running", number=9)
    await contend(loop)
    assert (loop.moved(), loop.moves(), loop.told()) == ([], [], [])


async def test_a_target_has_as_much_available_as_the_vm_holds() -> None:
    loop = enforcing()
    loop.report("free", available="5Gi")
    await contend(loop)
    assert loop.moved() == []
    loop.report("free", available="6Gi")
    await loop.wait(15)
    assert loop.moved() == ["full-0"]


async def test_after_a_migration_that_failed_another_vm_is_moved_and_that_is_said() -> None:
    loop = enforcing(8, 1, 8)
    loop.kubevirt("full-0", "Failed", target="free")
    await contend(loop)
    assert loop.moved() == ["full-2"]
    why = "the last migration failed of shop/full-0: it is not tried again for a while"
    assert loop.state.migration_faults == {"all": why}


@pytest.mark.parametrize(("failures", "hours"), [(0, 1), (1, 2), (2, 4), (9, 32)])
async def test_a_vm_rests_twice_as_long_after_each_failure(failures: int, hours: int) -> None:
    loop = enforcing(8, 1, after="0s")
    loop.kubevirt("full-0", "Succeeded", number=100, begun=-float(failures))
    for number in range(failures):
        loop.kubevirt("full-0", "Failed", number=number, target="free", begun=-float(number))
    loop.now = hours * 3600 - 1.0
    loop.report("full", 8, 8, 1)
    loop.report("free")
    loop.kubevirt("full-1", "Succeeded", number=200, begun=loop.now)
    await loop.wait(0)
    assert loop.moved() == []
    await loop.wait(1)
    assert loop.moved() == ["full-0"]


async def test_a_migration_that_does_not_end_is_named_and_nothing_else_is_moved() -> None:
    loop = enforcing()
    await contend(loop)
    loop.now += 1800
    loop.report("full", 7, 6, 5)
    loop.report("free")
    await loop.wait(0)
    assert loop.state.migration_faults == {"all": "the migration does not end of shop/full-0"}
    assert loop.moved() == ["full-0"]


@pytest.mark.parametrize(
    ("labels", "cordoned", "why"),
    [
        (READY, True, "it is cordoned"),
        ({**READY, "kubevirt.io/schedulable": "false"}, False, "KubeVirt places no VMs there"),
        ({"kubevirt.io/schedulable": "true"}, False, "it has no label kubernetes.io/hostname"),
    ],
)
async def test_a_target_that_takes_no_vms_is_left_out_for_ten_minutes(
    labels: dict[str, str], why: str, *, cordoned: bool
) -> None:
    loop = enforcing()
    loop.api.labels, loop.api.cordoned = labels, cordoned
    await contend(loop)
    assert loop.state.migration_faults == {"all": f"no VM is migrated to free: {why}"}
    loop.api.labels, loop.api.cordoned = READY, False
    for _ in range(5):
        loop.report("full", 7, 6, 5)
        loop.report("free")
        await loop.wait(119)
    assert loop.moved() == []
    await loop.wait(6)
    assert (loop.moved(), loop.state.migration_faults) == (["full-0"], {})


@pytest.mark.parametrize(
    ("error", "why", "moved"),
    [
        (InvalidError("in-flight migration detected"), "in-flight migration detected", ["full-1"]),
        (ForbiddenError("may not create"), "may not create", ["full-1"]),
        (
            ApiError('strict decoding error: unknown field "spec.addedNodeSelector"'),
            "no VM is migrated: this version of KubeVirt takes no target for a migration",
            [],
        ),
    ],
)
async def test_a_refusal_is_said_and_the_same_is_not_asked_again_at_once(
    error: Exception, why: str, moved: list[str]
) -> None:
    loop = enforcing(8, 8)
    loop.api.fails = error
    await contend(loop)
    assert loop.state.migration_faults == {"all": why}
    loop.api.fails = None
    await loop.wait(15)
    assert loop.moved() == moved


async def test_an_api_server_that_cannot_be_reached_is_asked_again() -> None:
    loop = enforcing()
    loop.api.fails = UnreachableError("it does not answer")
    await contend(loop)
    assert (loop.moves(), loop.state.migration_faults) == ([], {})
    loop.api.fails = None
    await loop.wait(15)
    assert loop.moved() == ["full-0"]


async def test_nothing_is_begun_without_the_lead_or_before_the_migrations_are_known() -> None:
    loop = enforcing()
    loop.leads = False
    await contend(loop)
    loop.leads = True
    loop.watch.synced.clear()
    await loop.wait(15)
    assert loop.moved() == []
    loop.watch.synced.set()
    await loop.wait(15)
    assert loop.moved() == ["full-0"]


async def test_an_agent_that_reports_a_vm_of_another_node_does_not_have_it_migrated() -> None:
    loop = enforcing()
    loop.api.runs = {"full-0": "elsewhere"}
    await contend(loop)
    why = "shop/full-0 is not migrated: full does not run it, although its agent reports it"
    assert (loop.moved(), loop.state.migration_faults) == ([], {"all": why})


async def test_an_owner_s_exclusion_holds_though_the_agent_does_not_report_it() -> None:
    loop = enforcing()
    loop.api.annotations = {"kubeballoon.io/exclude": "true"}
    await contend(loop)
    assert (loop.moved(), loop.state.migration_faults) == (
        [],
        {"all": "shop/full-0 is not migrated: its owner excluded it"},
    )


async def test_migrations_that_cannot_be_read_are_said_and_none_is_made() -> None:
    loop = enforcing()
    loop.watch.synced.clear()
    watching = asyncio.create_task(loop.migrator.watch())
    await soon(lambda: loop.api.listed > 0, 10)
    await contend(loop)
    watching.cancel()
    why = "no VM is migrated: migrations cannot be read"
    assert (loop.moved(), loop.state.migration_faults) == ([], {"all": why})
