"""`kubeballoon uninstall` waits until every VM has everything back, and names the VMs that do not in time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hack.testbed.controlplane import ControlPlane
from kubeballoon.cluster import paths
from kubeballoon.cluster.client import ApiClient, ApiError, ForbiddenError, NotFoundError
from kubeballoon.cluster.lease import Lease
from kubeballoon.uninstall.uninstaller import Uninstaller
from tests.support.cluster import AS_CONTROLLER, FakeNode, Object, controller_annotations, get, set_taints
from tests.support.processes import Command, await_leadership
from tests.support.waiting import Clock, until


class WithoutKubeVirt(ApiClient):
    """A fake cluster without KubeVirt: it has no kind at all."""

    def __init__(self) -> None:
        """Connect to nothing."""

    async def metadata(self, path: str) -> list[Object]:
        """Fail as for a kind that is not installed."""
        raise NotFoundError(f"{path}: no such kind")

    async def pages(
        self, path: str, query: Mapping[str, str] | None = None, *, metadata_only: bool = False
    ) -> AsyncIterator[Object]:
        """List no Nodes."""
        assert (path, query, metadata_only) == (paths.NODES, None, False)
        yield {"items": []}


class FreeLease(Lease):
    """A fake Lease that can always be seized."""

    def __init__(self) -> None:
        """Hold nothing."""
        self.namespace = "own"

    async def seize(self, seconds: float = 0.0) -> None:
        """Succeed."""

    async def shut_out(self, seconds: float) -> None:
        """Succeed."""


async def test_a_cluster_without_kubevirt_has_nothing_to_wait_for() -> None:
    clock = Clock()

    async def sleep(seconds: float) -> None:
        clock.now += seconds

    assert await Uninstaller(WithoutKubeVirt(), FreeLease(), clock, sleep).run(60) == []


class WithOneVM(WithoutKubeVirt):
    """A fake cluster of one VM with two of its four processors, whose agent returns the others without a request."""

    def __init__(self, reason: str | None) -> None:
        """Have the agent report ``reason`` of the VM's processors."""
        self.processors: Object = {"size": 4, "online": 2, "target": 2, "reason": reason}
        self.annotations: Object = {"kubeballoon.io/processor-target": "2"}

    async def metadata(self, path: str) -> list[Object]:  # noqa: ARG002 - there is but one
        """List the VM."""
        return [{"namespace": "shop", "name": "vm", "uid": "u", "annotations": self.annotations}]

    async def get(self, path: str, **query: str) -> Object:  # noqa: ARG002 - there is but one
        """List the report of the VM's node."""
        vm = {
            "uid": "u",
            "namespace": "shop",
            "name": "vm",
            "size": "1Gi",
            "actual": "1Gi",
            "processors": self.processors,
        }
        memory = {"total": "2Gi", "available": "1Gi", "other": "0", "reserve": "0"}
        now = datetime.now(UTC).isoformat()
        status = {"observedAt": now, "memory": memory, "state": "Ample", "virtualMachines": [vm]}
        return {"items": [{"metadata": {"name": "n"}, "status": status}]}

    async def json_patch(self, path: str, operations: list[Object], *, dry_run: bool = False) -> Object:  # noqa: ARG002 - there is but one
        """Remove the request, and have the agent return the processors."""
        assert operations[-1]["op"] == "remove"
        self.annotations = {}
        self.processors |= {"target": None, "online": 4}
        return {}


async def test_a_vm_that_migrates_keeps_its_request_until_it_has_arrived() -> None:
    clock, cluster = Clock(), WithOneVM("Migrating")
    held: list[bool] = []

    async def sleep(seconds: float) -> None:
        clock.now += seconds
        held.append(bool(cluster.annotations))
        if len(held) == 3:
            cluster.processors["reason"] = None

    assert await Uninstaller(cluster, FreeLease(), clock, sleep).run(60) == []
    assert held[:4] == [True, True, True, False]


class BesideForgedReport(WithOneVM):
    """A fake cluster in which an agent says that its Lease is where the uninstaller may read none."""

    async def get(self, path: str, **query: str) -> Object:
        """List the report, with a forged namespace; no Leases may be read."""
        if path != paths.NODE_PRESSURES:
            assert path == paths.leases("own"), "a report does not choose what is read"
            raise ForbiddenError("Leases may not be read")
        answer = await super().get(path, **query)
        answer["items"][0]["status"]["leaseNamespace"] = "kube-system"
        return answer


async def test_leases_that_may_not_be_read_keep_nothing_from_being_uninstalled() -> None:
    clock = Clock()

    async def sleep(seconds: float) -> None:
        clock.now += seconds

    assert await Uninstaller(BesideForgedReport(None), FreeLease(), clock, sleep).run(60) == []


class BesideAnUnreadableNode(WithOneVM):
    """A fake cluster in which another node's report is of a version that cannot be read."""

    async def get(self, path: str, **query: str) -> Object:
        """List both reports."""
        readable = await super().get(path, **query)
        strange = {"metadata": {"name": "strange"}, "status": {"state": "High"}}
        return {"items": [strange, *readable["items"]]}


async def test_a_report_that_cannot_be_read_hides_no_other_and_is_named() -> None:
    cluster = BesideAnUnreadableNode(None)
    with pytest.raises(ApiError, match="NodePressure strange cannot be read"):
        await Uninstaller(cluster, FreeLease()).run(60)
    assert cluster.annotations == {}, "what is requested elsewhere is withdrawn all the same"


@pytest.fixture
def short(installed: ControlPlane, namespace: str) -> Iterator[FakeNode]:
    """A node with a VM from which memory is requested and reclaimed."""
    made = FakeNode(installed, f"node-{namespace}", namespace)
    made.add("a")
    annotations = ("kubeballoon.io/memory-target=256Mi", "kubeballoon.io/policy=p")
    installed.kubectl("annotate", "vmi", "a", f"--namespace={namespace}", *annotations, *AS_CONTROLLER)
    made.report(follow=True)
    yield made
    made.remove()


def uninstall(plane: ControlPlane, namespace: str, log: Path, wait: str) -> Command:
    options = ("--all", f"--wait={wait}", f"--namespace={namespace}", f"--kubeconfig={plane.kubeconfig}")
    return Command(log, "uninstall", *options)


@pytest.mark.cluster
def test_memory_that_does_not_return_in_time_is_named(installed: ControlPlane, short: FakeNode, tmp_path: Path) -> None:
    where, cancelled = f"--namespace={short.namespace}", "kubeballoon.io/migration-cancelled=2026-01-01T00:00:00Z"
    installed.kubectl("annotate", "vmi", "a", where, cancelled, *AS_CONTROLLER)
    with uninstall(installed, short.namespace, tmp_path / "log", "2s") as command:
        assert command.process.wait(60) == 1
    last = command.output().splitlines()[-1]
    assert last.startswith("kubeballoon: not all memory is back after 2s: ")
    assert last.endswith(f"{short.namespace}/a on {short.name}: may still use only 256 MiB")
    assert controller_annotations(installed, short.namespace, "a") == {}
    assert not [key for key in get(installed, "vmi", "a", where)["metadata"].get("annotations", {}) if "balloon" in key]


@pytest.mark.cluster
def test_an_uninstallation_leaves_no_taint(installed: ControlPlane, node: FakeNode, tmp_path: Path) -> None:
    keys = ("kubeballoon.io/memory-pressure", "example.com/own")
    set_taints(installed, node.name, *({"key": key, "effect": "NoSchedule"} for key in keys))
    with uninstall(installed, node.namespace, tmp_path / "log", "60s") as command:
        assert command.process.wait(120) == 0
    assert [each["key"] for each in get(installed, "node", node.name)["spec"]["taints"]] == ["example.com/own"]
    assert f"node {node.name}: taint removed" in command.output()


@pytest.mark.cluster
def test_an_uninstallation_seizes_the_lease_from_the_leading_controller(
    installed: ControlPlane, short: FakeNode, tmp_path: Path
) -> None:
    where = f"--namespace={short.namespace}"
    options = (f"--kubeconfig={installed.kubeconfig}", where)
    with Command(tmp_path / "leader", "controller", *options) as leader:
        await_leadership(leader)
        with uninstall(installed, short.namespace, tmp_path / "log", "120s") as command:
            until(lambda: "leadership was lost" in leader.output(), 60)
            assert leader.process.poll() is None, "it stands by"
            until(lambda: controller_annotations(installed, short.namespace, "a") == {}, 60)
            short.report(follow=True)
            assert command.process.wait(150) == 0
    lease = get(installed, "lease", "kubeballoon-controller", where)["spec"]
    assert lease["holderIdentity"].startswith("uninstall_")
    assert lease["leaseDurationSeconds"] == 60


@pytest.mark.cluster
def test_a_missing_privilege_ends_an_uninstallation_in_one_line(
    installed: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    installed.kubectl("create", "serviceaccount", "nobody", f"--namespace={namespace}")
    kubeconfig = installed.service_account_kubeconfig(namespace, "nobody")
    options = ("--all", f"--namespace={namespace}", f"--kubeconfig={kubeconfig}")
    with Command(tmp_path / "log", "uninstall", *options) as command:
        assert command.process.wait(60) == 1
    assert len(command.output().splitlines()) == 1
    assert "cannot get resource" in command.output()
