"""A release waits until every VM has its memory and processors back."""

from __future__ import annotations

from collections.abc import Awaitable
from datetime import UTC, datetime
from typing import Any

import pytest

from kubeballoon.api.v1alpha1 import NodePressure
from kubeballoon.cluster.client import UnreachableError
from kubeballoon.cluster.request_withdrawal import wait_for_returns
from kubeballoon.governance.pending_returns import PendingReturn, listed_returns, pending_returns
from tests.support.waiting import Clock

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def node(name: str, *vms: dict[str, Any], observed: str = "2026-01-01T00:00:00Z") -> NodePressure:
    memory = {"total": "8Gi", "available": "1Gi", "other": "0", "reserve": "0"}
    status = {"observedAt": observed, "memory": memory, "virtualMachines": vms}
    return NodePressure.model_validate({"metadata": {"name": name}, "status": status})


def vm(name: str, **report: Any) -> dict[str, Any]:
    return {"uid": name, "namespace": "n", "name": name, "size": "1Gi", "actual": "1Gi", **report}


def all_pending(nodes: list[NodePressure]) -> list[PendingReturn]:
    return pending_returns(nodes, NOW, lambda *_: True)


@pytest.mark.parametrize(
    ("report", "reason"),
    [
        ({}, None),
        ({"actual": "1020Mi"}, None),  # agents do not report changes below a hundredth
        ({"actual": "512Mi"}, "has 512 MiB of 1 GiB"),
        ({"actual": "512Mi", "responsive": False, "message": "it sleeps"}, "has 512 MiB of 1 GiB (it sleeps)"),
        ({"target": "768Mi"}, "may still use only 768 MiB"),
        ({"actual": None, "message": "it hangs"}, "is out of sight (it hangs)"),
        ({"actual": "512Mi", "eligible": False, "message": "VFIO"}, "has 512 MiB of 1 GiB"),
        ({"actual": None, "eligible": False}, None),
        ({"processors": {"size": 4, "online": 4, "target": 4}}, "may still use only 4 processors"),
        ({"processors": {"size": 4, "online": 2, "returning": True}}, "has 2 of 4 processors"),
        ({"processors": {"size": 4, "online": 2}}, None),  # the VM's owner took them offline
        ({"processors": {"size": 4, "online": 4}}, None),
        ({"processors": {"size": 4, "online": 2, "returning": True, "reason": "UnplugLost"}}, None),  # until a restart
    ],
)
def test_a_vm_is_pending_until_it_has_everything_back(report: dict[str, Any], reason: str | None) -> None:
    found = all_pending([node("node", vm("a", **report))])
    assert [str(each) for each in found] == ([] if reason is None else [f"n/a on node: {reason}"])


def test_a_silent_agent_is_named_where_a_vm_lacks_something() -> None:
    found = all_pending([node("node", vm("a", actual="512Mi"), vm("b"), observed="2025-12-31T23:50:00Z")])
    assert listed_returns(found) == "n/a on node: has 512 MiB of 1 GiB; its node's agent has not reported for 600s"


def test_only_vms_that_are_covered_are_pending() -> None:
    nodes = [node("one", vm("a", target="1Mi"), vm("b", target="1Mi")), node("two", vm("c", target="1Mi"))]
    assert [
        each.name for each in pending_returns(nodes, NOW, lambda where, report: where == "one" and report.uid != "a")
    ] == ["b"]


def test_only_the_first_of_many_vms_are_listed() -> None:
    lines = listed_returns(
        all_pending([node("node", *(vm(f"vm-{number}", target="1Mi") for number in range(9)))])
    ).split("; ")
    assert len(lines) == 5
    assert lines[-1].endswith(" and 4 more")


PENDING = all_pending([node("node", vm("a", target="1Mi"))])


class FakeReports:
    """FakeReports find one list of VMs after the other, and the last one again and again."""

    def __init__(self, *found: list[PendingReturn] | UnreachableError) -> None:
        self.found = list(found)
        self.clock = Clock()
        self.progress: list[str] = []

    async def find(self) -> list[PendingReturn]:
        """Return the next list, or raise the error in its place."""
        each = self.found.pop(0) if len(self.found) > 1 else self.found[0]
        if isinstance(each, UnreachableError):
            raise each
        return each

    async def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.now += seconds

    def wait(self, seconds: float, **options: float) -> Awaitable[list[PendingReturn]]:
        """Wait for so many seconds."""
        return wait_for_returns(self.find, self.progress.append, seconds, clock=self.clock, sleep=self.sleep, **options)


async def test_the_wait_ends_when_no_vm_lacks_anything() -> None:
    reports = FakeReports(PENDING, PENDING, [])
    assert await reports.wait(60) == []
    assert reports.clock.now == 1002
    assert reports.progress == ["waiting for n/a on node: may still use only 1 MiB"]


async def test_a_vm_that_lacks_something_again_is_waited_for() -> None:
    reports = FakeReports([], PENDING, [])
    assert await reports.wait(60, quiet=3) == []
    assert reports.clock.now == 1005


async def test_the_wait_lasts_as_long_as_it_must() -> None:
    reports = FakeReports([])
    assert await reports.wait(2, at_least=10) == []
    assert reports.clock.now == 1010


async def test_vms_that_lack_something_at_the_end_are_returned() -> None:
    reports = FakeReports(PENDING)
    assert await reports.wait(5) == PENDING
    assert reports.clock.now == 1005


async def test_an_api_server_that_does_not_answer_at_the_end_is_an_error() -> None:
    reports = FakeReports(PENDING, UnreachableError("the API server cannot be reached"))
    with pytest.raises(UnreachableError, match="it is not known whether all memory is back: the API server cannot"):
        await reports.wait(5)
    assert await FakeReports(UnreachableError("gone for a moment"), []).wait(5) == []
