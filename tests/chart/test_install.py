"""helm install, upgrade and uninstall on the real API server; what its pods would do is done by real processes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import yaml

from hack.testbed.chart import CHART, NAMESPACE, RELEASE, helm
from hack.testbed.controlplane import ControlPlane, ControlPlaneError
from tests.chart.conftest import OTHER_NODE, VM_NODES
from tests.support import pods
from tests.support.cluster import FakeNode, Object, controller_annotations, get, memory_policy
from tests.support.processes import Command, await_leadership
from tests.support.waiting import until

pytestmark = pytest.mark.cluster

GUESTS = "guests"
CRD = "crd/memorypolicies.kubeballoon.io"
WHERE = f"--namespace={NAMESPACE}"
LIMIT = "--timeout=240s"
SECONDS = 300.0  # more than helm's own limit, so that helm says what it waited for
IN_NAMESPACE = "deployment,daemonset,job,role,rolebinding,poddisruptionbudget,podmonitor,prometheusrule,networkpolicy"
EVERYWHERE = "clusterrole,clusterrolebinding,validatingadmissionpolicy,validatingadmissionpolicybinding"
MONITORING = "--set=monitoring.podMonitor.enabled=true,monitoring.rules.enabled=true,monitoring.dashboard.enabled=true"


def install(cluster: ControlPlane, *options: str, verb: str = "install", chart: Path = CHART) -> str:
    return helm(verb, RELEASE, chart, WHERE, "--wait", LIMIT, *options, kubeconfig=cluster.kubeconfig, seconds=SECONDS)


def uninstall(cluster: ControlPlane, *options: str) -> str:
    return helm("uninstall", RELEASE, WHERE, LIMIT, *options, kubeconfig=cluster.kubeconfig, seconds=SECONDS)


@pytest.fixture(scope="module")
def notes(cluster: ControlPlane) -> Iterator[str]:
    """What helm said when it installed the chart."""
    yield install(cluster, MONITORING, "--set=networkPolicy.enabled=true")
    with suppress(ControlPlaneError):  # the last test has done so
        uninstall(cluster, "--no-hooks")


@pytest.fixture
def controller(notes: str, cluster: ControlPlane, tmp_path: Path) -> Iterator[Command]:  # noqa: ARG001 - needs the Deployment
    """The controller of the installed Deployment, which leads."""
    with leading(cluster, tmp_path / "controller.log") as command:
        yield command
        assert "Traceback" not in command.output()


@contextmanager
def leading(cluster: ControlPlane, log: Path) -> Iterator[Command]:
    """A controller, once it leads."""
    with pods.run(cluster, pods.running_pod(cluster, NAMESPACE, "controller"), log) as command:
        await_leadership(command)
        yield command


@pytest.fixture(scope="module")
def node(cluster: ControlPlane, notes: str) -> Iterator[FakeNode]:  # noqa: ARG001 - needs the CRDs
    """A node with three VMs that have to share."""
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": GUESTS}})
    made = FakeNode(cluster, "reported", GUESTS)
    for name in ("a", "b", "c"):
        made.add(name)
    made.report()
    yield made
    with suppress(ControlPlaneError):
        made.remove()


def test_it_says_what_to_do_next(notes: str) -> None:
    assert "mode: Observe" in notes
    assert "pod-security.kubernetes.io/enforce=privileged" in notes
    assert "WARNING" not in notes


@pytest.mark.usefixtures("notes")
def test_its_pods_run_where_they_should(cluster: ControlPlane) -> None:
    found: dict[str, list[str]] = {}
    for pod in get(cluster, "pods", WHERE)["items"]:
        component = pod["metadata"]["labels"]["app.kubernetes.io/component"]
        found.setdefault(component, []).append(pod["spec"]["nodeName"])
    assert sorted(found["agent"]) == sorted(VM_NODES)
    assert sorted(found["controller"]) == sorted({OTHER_NODE, VM_NODES[0]})  # on different nodes, not the tainted one
    assert found.keys() == {"agent", "controller"}


@pytest.mark.usefixtures("notes")
def test_an_agent_stays_while_its_node_takes_no_new_vms(cluster: ControlPlane) -> None:
    before = agents(cluster)
    try:
        # As virt-handler says on its way out.
        label(cluster, VM_NODES[0], "false")
        # That it was heeded is seen by another node, which is labelled after it.
        label(cluster, OTHER_NODE, "false")
        until(lambda: agents(cluster).keys() == {*VM_NODES, OTHER_NODE} and counted(cluster) == 3, 60)
        assert {name: agents(cluster)[name] for name in VM_NODES} == before
    finally:
        label(cluster, VM_NODES[0], "true")
        label(cluster, OTHER_NODE, None)
    until(lambda: agents(cluster) == before, 60)


def agents(cluster: ControlPlane) -> dict[str, str]:
    """The uid of each agent's pod, by its node."""
    found = get(cluster, "pods", WHERE, "--selector=app.kubernetes.io/component=agent")["items"]
    return {pod["spec"].get("nodeName", ""): pod["metadata"]["uid"] for pod in found}


def counted(cluster: ControlPlane) -> int:
    """How many agents the DaemonSet controller saw when it had last done its work."""
    status: Object = get(cluster, "daemonset", "kubeballoon-agent", WHERE)["status"]
    return int(status["numberReady"])


def label(cluster: ControlPlane, node: str, value: str | None) -> None:
    """Say whether KubeVirt may start VMs on a node; None: it does not run there."""
    cluster.kubectl("label", "node", node, "--overwrite", "kubevirt.io/schedulable" + (f"={value}" if value else "-"))


@pytest.mark.usefixtures("notes")
def test_its_agent_reports_with_its_own_token(cluster: ControlPlane, tmp_path: Path) -> None:
    pod = pods.running_pod(cluster, NAMESPACE, "agent")
    name = pod["spec"]["nodeName"]
    (container,) = pod["spec"]["containers"]
    (tmp_path / "pods").mkdir()
    container["args"] += [f"--node-name={name}", f"--pods-dir={tmp_path / 'pods'}"]  # not this machine's own
    with pods.run(cluster, pod, tmp_path / "log") as command:
        until(lambda: cluster.kubectl("get", "nodepressure", name, "--ignore-not-found"), 60)
        until(lambda: get(cluster, "nodepressure", name).get("status", {}).get("state"), 60)
        assert "forbidden" not in command.output()


def test_its_controller_divides_memory(node: FakeNode, controller: Command, cluster: ControlPlane) -> None:
    cluster.apply(memory_policy("default"))
    until(lambda: len(node.targets()) == 3)
    assert "forbidden" not in controller.output()


def test_an_upgrade_brings_new_crds_and_keeps_policies(node: FakeNode, cluster: ControlPlane, tmp_path: Path) -> None:
    newer = shutil.copytree(CHART, tmp_path / "chart")
    path = newer / "files/crds/memorypolicies.yaml"
    definition = yaml.safe_load(path.read_text())
    definition["spec"]["names"]["shortNames"].append("newer")
    path.write_text(yaml.safe_dump(definition))
    install(cluster, "--set=controller.replicas=3", verb="upgrade", chart=newer)
    assert get(cluster, CRD)["spec"]["names"]["shortNames"] == ["mempol", "newer"]
    deployment = ("deployment", "kubeballoon-controller", WHERE)
    until(lambda: get(cluster, *deployment)["status"].get("readyReplicas") == 3, 60)  # helm is content with fewer
    assert get(cluster, "mempol", "default")["metadata"]["generation"] == 1
    assert len(node.targets()) == 3


def present(cluster: ControlPlane) -> set[str]:
    """The names of what the chart installs, its CRDs aside."""
    ours = "--selector=app.kubernetes.io/instance=kubeballoon"
    wanted = ((IN_NAMESPACE, WHERE), (EVERYWHERE, ours))
    return {name for what in wanted for name in cluster.kubectl("get", *what, "--output=name").split()}


def hook(cluster: ControlPlane, log: Path, node: FakeNode, controller: Command, *, stuck: bool = False) -> None:
    """Run the release that helm's hook asks for, and play the agent beside it; balloons may be stuck."""
    pod = pods.running_pod(cluster, NAMESPACE, "release")
    if stuck:
        pod["spec"]["containers"][0]["args"].append("--wait=30s")  # not the chart's minutes
    with pods.run(cluster, pod, log) as command:
        until(lambda: "request withdrawn" in command.output(), 60)
        assert controller.process.wait(60) == 1  # until then it may ask again
        until(lambda: all(controller_annotations(cluster, GUESTS, name) == {} for name in node.vms), 60)
        node.report()
        until(lambda: f"{GUESTS}/a on {node.name}: has " in command.output(), 60, command.output)
        if not stuck:
            node.report(follow=True)
        assert command.process.wait(60) == int(stuck), command.output()
    pods.end(cluster, pod, failed=stuck)


def test_an_uninstallation_that_gets_no_memory_back_deletes_nothing(
    node: FakeNode, controller: Command, cluster: ControlPlane, tmp_path: Path
) -> None:
    node.report(follow=True)
    before = present(cluster)
    with ThreadPoolExecutor() as pool:
        uninstalled = pool.submit(uninstall, cluster)
        hook(cluster, tmp_path / "log", node, controller, stuck=True)
        with pytest.raises(ControlPlaneError, match="kubeballoon-uninstall"):
            uninstalled.result()
    last = (tmp_path / "log").read_text().splitlines()[-1]
    assert "not all memory is back after 30s" in last
    assert all(f"{GUESTS}/{name} on {node.name}" in last for name in node.vms)
    assert present(cluster) >= before | {"job.batch/kubeballoon-uninstall"}
    # As its kubelet would start it again.
    with leading(cluster, tmp_path / "next.log"):
        until(lambda: len(node.targets()) == 3, 60)


def test_an_uninstallation_gives_everything_back_first(
    node: FakeNode, controller: Command, cluster: ControlPlane, tmp_path: Path
) -> None:
    node.report(follow=True)
    with ThreadPoolExecutor() as pool:
        uninstalled = pool.submit(uninstall, cluster)
        hook(cluster, tmp_path / "log", node, controller)
        uninstalled.result()
    assert "leadership was lost" in controller.output()
    assert all(controller_annotations(cluster, GUESTS, name) == {} for name in node.vms)
    assert "every VM has its memory" in (tmp_path / "log").read_text()
    assert not present(cluster)
    # The CRDs stay, and every policy with them.
    assert get(cluster, "mempol", "default")["spec"]["selector"] == {}


def test_who_asks_for_it_loses_the_crds_too(node: FakeNode, cluster: ControlPlane) -> None:
    with suppress(ControlPlaneError):
        uninstall(cluster, "--no-hooks")
    install(cluster, "--set=crds.keep=false,uninstall.enabled=false")
    node.remove()
    said = uninstall(cluster)
    assert "kept due to the resource policy" not in said
    until(lambda: not cluster.kubectl("get", CRD, "--ignore-not-found"), 60)
