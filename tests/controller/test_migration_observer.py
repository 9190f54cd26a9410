"""The controller's search for migrations that would mend nodes, where a NodePolicy only observes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from kubeballoon.api.v1alpha1 import NodePressure, NodePressureStatus
from kubeballoon.cluster.client import Object
from kubeballoon.controller.cluster_state import ClusterState
from kubeballoon.controller.migration_observer import MigrationObserver
from kubeballoon.core.memory.model import MemoryNode
from kubeballoon.governance.report_bounds import SILENT_AFTER
from kubeballoon.vocabulary import TaintEffect
from tests.support.cluster import memory_policy, node_policy


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
    """An observer with its clock and the nodes' reports, of nodes with 15 GiB for VMs of 8 GiB."""

    def __init__(self, *policies: Object) -> None:
        self.now = 0.0
        self.recorder = Recorder()
        self.state = ClusterState(utc_now=lambda: datetime(2026, 1, 1, tzinfo=UTC))
        for each in policies:
            self.state.node_policies.put(each)
        vms = memory_policy("vms", memory={"min": "10%", "headroom": "0"})
        vms["metadata"] |= {"uid": "vms", "resourceVersion": "1"}
        self.state.memory.put(vms)
        recorder: Any = self.recorder
        self.observer = MigrationObserver(self.state, recorder, lambda: self.now)
        self._reports = 0

    def report(
        self, name: str, *needs: int, state: str = "Ample", pool: str = "", released: bool = False, **vm: Any
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
            "memory": {"total": "16Gi", "available": "1Gi", "other": "0", "reserve": "1Gi"},
            "virtualMachines": vms,
            "conditions": [],
        }
        metadata: Object = {"name": name, "uid": name, "resourceVersion": str(self._reports)}
        if released:
            metadata["annotations"] = {"kubeballoon.io/release": "true"}
        self.state.put_node(NodePressure.model_validate({"metadata": metadata, "status": status}).to_wire(), self.now)

    async def wait(self, seconds: float) -> None:
        """Let time pass, and the observer choose after it."""
        self.now += seconds
        await self.observer.update()

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
