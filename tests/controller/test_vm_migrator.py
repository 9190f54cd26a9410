"""Migrations that mend nodes: which the controller begins, or only tells of, with an API server that is a fake."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kubeballoon.api.v1alpha1 import NodePressure, NodePressureStatus
from kubeballoon.cluster.client import ApiError, ConflictError, ForbiddenError, InvalidError, Object, UnreachableError
from kubeballoon.controller.cluster_state import ClusterState
from kubeballoon.controller.main import add_parser
from kubeballoon.controller.vm_migrator import VMMigrator
from kubeballoon.core.memory.model import MemoryNode, MemoryVM
from kubeballoon.core.migration_arrival import Arrival, plan_arrival
from kubeballoon.governance.report_bounds import SILENT_AFTER
from kubeballoon.governance.targets_in_force import VMRequest
from kubeballoon.vocabulary import TaintEffect
from tests.support.cluster import memory_policy, node_of_large_vms, node_policy
from tests.support.waiting import soon

TODAY = datetime(2026, 1, 1, tzinfo=UTC)
READY = {"kubernetes.io/hostname": "free.example.com", "kubevirt.io/schedulable": "true"}


class FakeApi:
    """An API server with Nodes, and migrations that are created."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        self.seconds = seconds
        self.labels: dict[str, str] = READY
        self.cordoned = False
        self.listed = 0
        self.runs: dict[str, str] = {}  # where VMs run that do not run where they are reported
        self.annotations: dict[str, str] = {}  # of all VMs
        self.fails: Exception | None = None
        self.created: list[Object] = []
        self.deleted: list[str] = []
        self.tested: list[str] = []  # the nodes of VMs that patches test
        self.limits: Object | None = {}  # of KubeVirt; None where its object may not be read

    async def get(self, path: str, accept: str = "") -> Object:
        """Get a VM's metadata, or a Node."""
        if "PartialObjectMetadata" in accept:
            name = path.removeprefix("/apis/kubevirt.io/v1/namespaces/shop/virtualmachineinstances/")
            labels = {"kubevirt.io/nodeName": self.runs.get(name, name.rsplit("-", 1)[0])}
            return {"metadata": {"uid": name, "labels": labels, "annotations": self.annotations}}
        name = path.removeprefix("/api/v1/nodes/")
        return {"metadata": {"name": name, "labels": self.labels}, "spec": {"unschedulable": self.cordoned}}

    async def pages(self, path: str, *_: object, **__: object) -> AsyncIterator[Object]:
        """List KubeVirt's own object, and refuse to list migrations."""
        if path == "/apis/kubevirt.io/v1/kubevirts" and self.limits is not None:
            yield {"items": [{"spec": {"configuration": {"migrations": self.limits}}}]}
            return
        self.listed += 1
        raise ForbiddenError("may not list them")

    async def json_patch(self, path: str, operations: list[Object]) -> Object:
        """Take what is written on a VM."""
        assert path.startswith("/apis/kubevirt.io/v1/namespaces/shop/virtualmachineinstances/full-0")
        key = "/metadata/annotations/kubeballoon.io~1migration-cancelled"
        self.tested += [each["value"] for each in operations if each["path"] == "/status/nodeName"]
        self.annotations["kubeballoon.io/migration-cancelled"] = next(
            each["value"] for each in operations if each["path"] == key
        )
        return {}

    async def delete(self, path: str, uid: str, version: str) -> None:
        """Delete a migration, or fail."""
        assert (uid, version) != ("", "")
        if self.fails is not None:
            raise self.fails
        self.deleted.append(path.removeprefix("/apis/kubevirt.io/v1/namespaces/shop/virtualmachineinstancemigrations/"))

    async def create(self, path: str, body: Object, *, strict: bool) -> Object:
        """Create a migration, or fail."""
        assert (path, strict) == ("/apis/kubevirt.io/v1/namespaces/shop/virtualmachineinstancemigrations", True)
        if self.fails is not None:
            raise self.fails
        self.created.append(body)
        number = str(len(self.created))
        metadata = {"name": f"m{number}", "uid": number, "resourceVersion": "1", **body["metadata"]}
        metadata["creationTimestamp"] = (TODAY + timedelta(seconds=self.seconds())).isoformat()
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

    def __init__(self, *policies: Object, enabled: bool = True, max_migrations: int = 4) -> None:
        self.now = 0.0
        self.leads = True
        self.rounds: list[str] = []  # nodes whose next round is to come soon
        self.api = FakeApi(lambda: self.now)
        self.recorder = Recorder()
        self.state = ClusterState(
            migrations_enabled=enabled,
            migrations_at_once=max_migrations,
            utc_now=lambda: TODAY + timedelta(seconds=self.now),
        )
        for each in policies:
            self.state.node_policies.put(each)
        vms = memory_policy("vms", memory={"min": "10%", "headroom": "0"})
        vms["metadata"] |= {"uid": "vms", "resourceVersion": "1"}
        self.state.memory.put(vms)
        api: Any = self.api
        recorder: Any = self.recorder
        self.migrator = VMMigrator(api, self.state, recorder, lambda: self.leads, lambda: self.now, self.rounds.append)
        self.watch = self.migrator._watch  # noqa: SLF001 - tests stand in for the API server's answers
        self.watch.synced.set()
        self._reports = 0

    def kubevirt(
        self, vm: str, phase: str, number: int = 1, target: str | None = None, begun: float = 0.0, **state: str
    ) -> None:
        """Have KubeVirt say how a migration fares."""
        at = (TODAY + timedelta(seconds=begun)).isoformat()
        metadata: Object = {"name": f"m{number}", "namespace": "shop", "uid": str(number), "creationTimestamp": at}
        metadata["resourceVersion"] = "7"
        if target is not None:
            metadata["annotations"] = {"kubeballoon.io/target-node": target}
        status = {"phase": phase, "migrationState": state}
        self.watch.add({"metadata": metadata, "spec": {"vmiName": vm}, "status": status})

    def forget(self, number: int) -> None:
        """Have KubeVirt delete a migration."""
        self.watch._drop({"metadata": {"uid": str(number)}})  # noqa: SLF001 - tests stand in for the API server's answers

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
        limits: Object | None = None,
        **vm: Any,
    ) -> None:
        """Let an agent report VMs that work with so many GiB."""
        self._reports += 1
        status = {
            "observedAt": f"2026-01-01T00:{self._reports // 60:02}:{self._reports % 60:02}Z",
            "state": state,
            "labels": {"pool": pool},
            "conditions": [],
            "limits": limits,
            **node_of_large_vms(name, *needs, available=available, **vm),
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
    assert of_node == "its NodePolicy only observes; judged by memory alone, it would migrate shop/full-0 to free"
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
    assert "none of them may be migrated now" in loop.state.migration_plans["all"].unmended["full"]


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


async def test_a_target_that_is_full_of_what_its_vms_do_not_need_makes_room_before_the_migration() -> None:
    loop = enforcing()
    loop.report("free", 1, 1, available="3Gi")
    await contend(loop)
    assert (loop.moved(), loop.state.room_needed) == ([], {"free": 5 << 30})
    assert loop.rounds == ["free"]
    await loop.wait(15)
    assert loop.rounds == ["free"], "a round is asked for once"
    loop.report("free", 1, 1, available="6Gi")
    await loop.wait(15)
    assert (loop.moved(), loop.state.room_needed) == ([], {"free": 5 << 30}), "at first it is to give what it keeps"
    written = VMRequest(loop.state.arrivals["shop/full-0"].memory, None, "vms", None)
    loop.state.memory.written.record("full", "full-0", VMRequest(), written, loop.now)
    await loop.wait(15)
    assert (loop.moved(), loop.state.room_needed) == (["full-0"], {"free": 5 << 30})
    assert loop.rounds.count("free") == 1
    loop.kubevirt("full-0", "Succeeded", target="free", begun=loop.now)
    loop.report("full", 6, 5)
    await loop.wait(15)
    assert loop.state.room_needed == {}


async def test_where_nothing_is_migrated_no_room_is_made_but_the_migration_is_told_of() -> None:
    loop = Loop(policy())
    loop.report("full", 7, 6, 5)
    loop.report("free", 1, 1, available="3Gi")
    await loop.wait(0)
    await loop.wait(60)
    assert (loop.moves(), loop.state.room_needed) == ([("shop/full-0", "full", "free")], {})


async def test_after_a_migration_that_failed_another_vm_is_moved_and_that_is_said() -> None:
    loop = enforcing(8, 1, 8)
    loop.kubevirt("full-0", "Failed", target="free")
    await contend(loop)
    assert loop.moved() == ["full-2"]
    why = "the last migration of shop/full-0 failed: it is tried again later"
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
    loop.now += 1801
    loop.report("full", 7, 6, 5)
    loop.report("free")
    await loop.wait(0)
    assert loop.state.migration_faults == {"all": "the migration of shop/full-0 does not end"}
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


def renew(loop: Loop) -> None:
    """Let the agents of the full node and of the free one report what they reported before."""
    loop.report("full", 7, 6, 5)
    loop.report("free")


async def test_a_migration_of_ours_that_hangs_is_cancelled_once_and_its_vm_rests_twice_as_long() -> None:
    loop = enforcing()
    await contend(loop)
    bound = 1800 + 8 * 150  # half an hour, and what KubeVirt allows for 8 GiB
    loop.now = 60.0 + bound
    renew(loop)
    await loop.wait(0)
    assert loop.api.deleted == []
    await loop.wait(1)
    assert loop.api.deleted == ["m1"]
    assert [(about, note) for about, reason, note in loop.recorder.events if reason == "MigrationCancelled"] == [
        (
            "VirtualMachineInstance/full-0",
            "its migration to free was cancelled: it had not ended after 50 minutes",
        )
    ]
    loop.forget(1)
    await loop.wait(1)
    why = "the last migration of shop/full-0 failed: it is tried again later"
    assert loop.state.migration_faults == {"all": why}
    assert (loop.moved(), loop.api.deleted) == (["full-0"], ["m1"])
    loop.now += 2 * 3600
    renew(loop)
    await loop.wait(0)
    await loop.wait(60)
    assert loop.moved() == ["full-0", "full-0"]


async def test_a_new_leader_reads_from_the_vm_that_its_migration_was_cancelled() -> None:
    first = enforcing()
    await contend(first)
    first.now = 4000.0
    renew(first)
    await first.wait(0)
    assert first.api.annotations == {"kubeballoon.io/migration-cancelled": "2026-01-01T01:06:40+00:00"}
    second = enforcing()
    second.api.annotations = first.api.annotations
    second.now = 4000.0
    renew(second)
    await contend(second)
    await second.wait(15)
    why = "the last migration of shop/full-0 failed: it is tried again later"
    assert second.state.migration_faults == {"all": why}
    assert second.moved() == []


@pytest.mark.parametrize("first", ["full", "forger"])
async def test_that_a_migration_was_cancelled_is_written_on_its_vm_for_the_node_that_it_leaves(first: str) -> None:
    loop = enforcing()
    for node in (first, *{"full", "forger"} - {first}):
        loop.report(node, 1)
    forged = loop.state.nodes["forger"].to_wire()
    forged["status"]["virtualMachines"][0]["name"] = "full-0"
    loop.kubevirt("full-0", "Running", target="free", sourceNode="full", targetNode="free")
    loop.now = 86_401.0
    loop.state.put_node({**forged, "metadata": {**forged["metadata"], "resourceVersion": "99"}}, loop.now)
    await loop.wait(0)
    assert (loop.api.deleted, loop.api.tested) == (["m1"], ["full"])


@pytest.mark.parametrize(
    "written", ["yesterday", "2026-01-01", "2025-12-01T00:00:00+00:00", "2027-01-01T00:00:00+00:00"]
)
async def test_a_date_that_says_nothing_keeps_no_vm_from_being_migrated(written: str) -> None:
    loop = enforcing()
    loop.api.annotations = {"kubeballoon.io/migration-cancelled": written}
    await contend(loop)
    assert loop.moved() == ["full-0"]


async def test_an_event_on_the_node_that_the_vm_does_not_leave_tells_of_the_cancelled_migration() -> None:
    loop = enforcing()
    loop.kubevirt("full-0", "Running", target="free", sourceNode="full", targetNode="free")
    loop.now = 86_401.0
    await loop.wait(0)
    assert ("Node/full", "MigrationCancelled") in loop.told()


async def test_nobody_else_s_migration_is_cancelled_however_long_it_takes() -> None:
    loop = enforcing()
    loop.kubevirt("full-0", "Running", number=9)
    loop.now = 86_400.0 * 3
    renew(loop)
    await loop.wait(0)
    assert loop.api.deleted == []
    assert loop.state.migration_faults == {"all": "the migration of shop/full-0 does not end"}


async def test_a_migration_of_a_vm_that_no_agent_reports_is_cancelled_after_a_day() -> None:
    loop = enforcing()
    loop.kubevirt("gone", "Pending", target="free")
    loop.now = 86_400.0
    await loop.wait(0)
    assert loop.api.deleted == []
    await loop.wait(1)
    assert loop.api.deleted == ["m1"]


async def test_a_migration_is_cancelled_by_the_leader_only_and_what_refuses_that_is_said() -> None:
    loop = enforcing()
    await contend(loop)
    loop.leads = False
    loop.now = 4000.0
    renew(loop)
    await loop.wait(0)
    assert loop.api.deleted == []
    loop.leads, loop.api.fails = True, ForbiddenError("may not delete migrations")
    await loop.wait(1)
    assert loop.state.migration_faults == {"all": "may not delete migrations"}
    loop.api.fails = ConflictError("it has changed")
    await loop.wait(1)
    assert loop.state.migration_faults == {"all": "the migration of shop/full-0 does not end"}
    loop.api.fails = None
    await loop.wait(1)
    assert loop.api.deleted == ["m1"]


async def test_where_kubevirt_does_not_heed_the_target_nothing_more_is_migrated_and_that_is_said() -> None:
    loop = enforcing()
    await contend(loop)
    loop.kubevirt("full-0", "Running", target="free", begun=60, sourceNode="full", targetNode="third")
    await loop.wait(15)
    assert loop.api.deleted == ["m1"]
    loop.kubevirt("full-0", "Failed", target="free", begun=60, sourceNode="full", targetNode="third")
    loop.report("full", 8, 8, 8)
    await loop.wait(15)
    why = "no VM is migrated: KubeVirt took shop/full-0 to another node than it was told"
    assert (loop.state.migration_faults, loop.moved()) == ({"all": why}, ["full-0"])


@pytest.mark.parametrize(
    ("limits", "max_migrations", "others", "moved"),
    [
        ({}, 2, 1, ["full-0"]),
        ({}, 2, 2, []),
        ({}, 9, 4, ["full-0"]),
        ({}, 9, 5, []),
        ({"parallelMigrationsPerCluster": 1}, 9, 0, ["full-0"]),
        ({"parallelMigrationsPerCluster": 1}, 9, 1, []),
        ({"parallelMigrationsPerCluster": "many"}, 9, 4, ["full-0"]),
        (None, 9, 4, ["full-0"]),
        (None, 9, 5, []),
    ],
)
async def test_in_the_whole_cluster_no_more_are_under_way_than_kubevirt_and_the_installation_allow(
    limits: Object | None, max_migrations: int, others: int, moved: list[str]
) -> None:
    loop = Loop(policy(mode="Enforce"), max_migrations=max_migrations)
    loop.api.limits = limits
    renew(loop)
    for number in range(others):
        loop.kubevirt(f"elsewhere-{number}", "Pending", number=100 + number)
    await contend(loop)
    assert loop.moved() == moved


async def test_the_limit_of_the_cluster_holds_across_policies() -> None:
    spec = {"mode": "Enforce"}
    loop = Loop(policy(**spec), policy("own", "own", **spec), max_migrations=1)
    renew(loop)
    loop.report("full-own", 7, 6, 5, pool="own")
    loop.report("free-own", pool="own")
    loop.api.runs = {f"full-own-{number}": "full-own" for number in range(3)}
    await contend(loop)
    assert len(loop.moved()) == 1
    loop.kubevirt(loop.moved()[0], "Succeeded", target="free", begun=60)
    await loop.wait(15)
    assert len(loop.moved()) == 2


async def test_no_more_migrations_leave_a_node_than_kubevirt_allows() -> None:
    async def begun(limits: Object) -> list[str]:
        loop = Loop(policy(mode="Enforce", maxMigrations=9, maxMigrationsPerNode=9), max_migrations=9)
        loop.api.limits = limits
        loop.report("full", 7, 7, 7, 7)
        loop.report("free")
        loop.report("spare")
        await contend(loop)
        return loop.moved()

    assert await begun({"parallelOutboundMigrationsPerNode": 1}) == ["full-0"]
    assert await begun({}) == ["full-0", "full-1"]


async def test_no_vm_goes_to_a_node_from_which_one_came_within_the_rest() -> None:
    loop = enforcing()
    loop.kubevirt("other", "Succeeded", target="full", sourceNode="free", targetNode="full")
    await contend(loop)
    assert loop.moved() == []
    loop.now = 3600.0
    renew(loop)
    await loop.wait(0)
    assert loop.moved() == ["full-0"]


async def test_a_vm_is_moved_once_an_hour_at_the_most_whoever_moved_it_last() -> None:
    loop = enforcing(8, 8)
    loop.kubevirt("full-0", "Succeeded", begun=0)
    loop.kubevirt("full-1", "Succeeded", number=2, begun=600)
    loop.now = 3599.0
    loop.report("full", 8, 8)
    loop.report("free")
    await loop.wait(0)
    await loop.wait(60)
    assert loop.moved() == ["full-0"]


async def test_on_the_only_node_nothing_is_migrated_and_that_is_said() -> None:
    loop = Loop(policy(mode="Enforce"))
    loop.report("full", 7, 6, 5)
    await contend(loop)
    why = (
        "its VMs need 3 GiB more than it has, and there is no node to migrate them to: "
        "a target has the same NodePolicy, and an agent that reports"
    )
    assert loop.state.migration_plans["all"].unmended == {"full": why}
    assert loop.recorder.events == [("Node/full", "NoMigrationHelps", f"no migration mends it: {why}")]


async def test_where_no_other_node_has_an_agent_that_reports_that_is_said_and_another_is_used_once_it_does() -> None:
    loop = enforcing()
    loop.now = SILENT_AFTER + 1
    loop.report("full", 7, 6, 5)
    await contend(loop)
    assert "there is no node to migrate them to" in loop.state.migration_plans["all"].unmended["full"]
    loop.report("free")
    await loop.wait(15)
    assert loop.moved() == ["full-0"]


def lean() -> Loop:
    """An enforcing loop whose free node can give a VM that comes there 7 of its 8 GiB."""
    loop = enforcing()
    loop.report("free", available="8Gi", other="8Gi")
    return loop


async def test_a_vm_s_request_is_set_for_its_new_node_before_the_migration_is_made() -> None:
    loop = lean()
    await contend(loop)
    arrival = Arrival("shop/full-0", "free", 7 << 30)
    assert (loop.moved(), loop.rounds, dict(loop.state.arrivals)) == ([], ["full"], {"shop/full-0": arrival})
    assert loop.state.migration_plans["all"].waiting == ("full",)
    written = VMRequest(7 << 30, None, "vms", None)
    loop.state.memory.written.record("full", "full-0", VMRequest(), written, loop.now)
    await loop.wait(15)
    (made,) = loop.api.created
    assert made["spec"]["vmiName"] == "full-0"
    assert made["metadata"]["annotations"]["kubeballoon.io/memory-target"] == "7Gi"
    for _ in range(2):
        await loop.wait(60)
        assert loop.state.arrivals == {"shop/full-0": arrival}, "until it has arrived"
    loop.rounds.clear()
    loop.kubevirt("full-0", "Failed", target="free", begun=75)
    await loop.wait(15)
    assert (loop.state.arrivals, loop.rounds) == ({}, ["full"])


async def test_a_vm_that_has_less_already_is_migrated_at_once() -> None:
    loop = lean()
    loop.report("full", 7, 6, 5, target="5Gi", policy="vms", min="1Gi")
    await contend(loop)
    assert loop.moved() == ["full-0"]


async def test_a_new_leader_knows_with_what_a_vm_on_its_way_is_to_arrive() -> None:
    loop = enforcing()
    annotations = {"kubeballoon.io/target-node": "free", "kubeballoon.io/memory-target": "6Gi"}
    metadata = {"name": "m", "namespace": "shop", "uid": "m", "creationTimestamp": TODAY.isoformat()}
    loop.watch.add({"metadata": {**metadata, "annotations": annotations}, "spec": {"vmiName": "full-0"}})
    await loop.wait(0)
    assert loop.state.arrivals == {"shop/full-0": Arrival("shop/full-0", "free", 6 << 30)}


async def test_when_a_migration_is_refused_the_old_node_decides_about_the_request_again() -> None:
    loop = lean()
    loop.report("full", 7, 6, 5, target="7Gi", policy="vms", min="1Gi")
    loop.api.fails = ForbiddenError("may not create")
    await contend(loop)
    assert (loop.moved(), loop.state.arrivals) == ([], {})


async def test_a_vm_whose_request_is_not_written_is_left_out_and_that_is_said() -> None:
    loop = lean()
    await contend(loop)
    for _ in range(4):
        await loop.wait(15)
    why = "shop/full-0 is not migrated: its request for free was not written"
    assert (loop.moved(), loop.state.migration_faults) == ([], {"all": why})
    loop.rounds.clear()
    await loop.wait(15)
    assert "shop/full-0" not in loop.state.arrivals


async def test_a_target_has_room_for_what_the_vm_s_pod_requests() -> None:
    loop = enforcing()
    limits = {"ample": "4Gi", "tight": "3Gi", "scarce": "2Gi", "critical": "1Gi"}
    limits |= {"capacity": "16Gi", "evictionThreshold": "0", "evictionMargin": "0"}
    loop.report("full", 7, 6, 5, target="5Gi", policy="vms", min="1Gi")
    loop.report("free", 1, 1, limits=limits)
    await contend(loop)
    assert loop.moved() == [], "its VMs' pods request all 16 GiB"
    loop.report("free", 1, 1, limits=limits, podRequest="2Gi")
    await loop.wait(15)
    assert loop.moved() == ["full-0"]


async def test_a_report_that_breaks_the_plan_of_an_arrival_costs_its_own_node_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = enforcing()

    def plan(vm: MemoryVM, target: MemoryNode, others: Iterable[Arrival]) -> Arrival | None:
        if target.name == "free":
            raise OverflowError
        return plan_arrival(vm, target, others)

    monkeypatch.setattr("kubeballoon.controller.vm_migrator.plan_arrival", plan)
    await contend(loop)
    why = "no VM is migrated to free: what a VM would have there cannot be computed"
    assert (loop.moved(), loop.state.migration_faults) == ([], {"all": why})
    loop.report("spare")
    await loop.wait(15)
    assert loop.api.created[0]["metadata"]["annotations"]["kubeballoon.io/target-node"] == "spare"


@pytest.mark.parametrize("number", ["0", "101", "-1", "4.0", "many", ""])
def test_a_limit_that_is_no_number_of_migrations_is_refused_in_one_line(
    number: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    with pytest.raises(SystemExit):
        parser.parse_args(["controller", f"--max-migrations={number}"])
    assert f"--max-migrations: {number!r} is no number from 1 to 100" in capsys.readouterr().err
