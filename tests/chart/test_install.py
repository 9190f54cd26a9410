"""helm install, upgrade and uninstall on the real API server; local processes run the commands of the pods."""

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
SECONDS = 300.0  # more than helm's own timeout, so that helm says what it waited for
IN_NAMESPACE = "deployment,daemonset,job,role,rolebinding,poddisruptionbudget,podmonitor,prometheusrule,networkpolicy"
EVERYWHERE = (
    "flowschema,prioritylevelconfiguration,clusterrole,clusterrolebinding,"
    "validatingadmissionpolicy,validatingadmissionpolicybinding"
)
MONITORING = "--set=monitoring.podMonitor.enabled=true,monitoring.rules.enabled=true,monitoring.dashboard.enabled=true"


def install(cluster: ControlPlane, *options: str, verb: str = "install", chart: Path = CHART) -> str:
    return helm(verb, RELEASE, chart, WHERE, "--wait", LIMIT, *options, kubeconfig=cluster.kubeconfig, seconds=SECONDS)


def uninstall(cluster: ControlPlane, *options: str) -> str:
    return helm("uninstall", RELEASE, WHERE, LIMIT, *options, kubeconfig=cluster.kubeconfig, seconds=SECONDS)


@pytest.fixture(scope="module")
def notes(cluster: ControlPlane) -> Iterator[str]:
    """The notes that helm printed when it installed the chart."""
    yield install(cluster, MONITORING, "--set=networkPolicy.enabled=true")
    with suppress(ControlPlaneError):  # the last test has uninstalled it already
        uninstall(cluster, "--no-hooks")


@pytest.fixture
def controller(notes: str, cluster: ControlPlane, tmp_path: Path) -> Iterator[Command]:  # noqa: ARG001 - needs the Deployment
    """The controller of the installed Deployment, once it leads."""
    with leading(cluster, tmp_path / "controller.log") as command:
        yield command
        assert "Traceback" not in command.output()


@contextmanager
def leading(cluster: ControlPlane, log: Path) -> Iterator[Command]:
    """Run the controller of the Deployment's pod inside the context, which begins once it leads."""
    with pods.run(cluster, pods.running_pod(cluster, NAMESPACE, "controller"), log) as command:
        await_leadership(command)
        yield command


@pytest.fixture(scope="module")
def node(cluster: ControlPlane, notes: str) -> Iterator[FakeNode]:  # noqa: ARG001 - needs the CRDs
    """A fake node with three VMs whose sizes exceed its memory."""
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": GUESTS}})
    made = FakeNode(cluster, "reported", GUESTS)
    for name in ("a", "b", "c"):
        made.add(name)
    made.report()
    yield made
    with suppress(ControlPlaneError):
        made.remove()


def test_the_notes_say_what_to_do_next(notes: str) -> None:
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
    assert sorted(found["controller"]) == sorted({OTHER_NODE, VM_NODES[0]})  # on two nodes, but not on the tainted one
    assert found.keys() == {"agent", "controller"}


@pytest.mark.usefixtures("notes")
def test_an_agent_stays_while_its_node_takes_no_new_vms(cluster: ControlPlane) -> None:
    before = agents(cluster)
    try:
        # As virt-handler does when it ends.
        label(cluster, VM_NODES[0], "false")
        # The agent of another node, which is labelled later, shows that the DaemonSet controller has seen the label.
        label(cluster, OTHER_NODE, "false")
        until(lambda: agents(cluster).keys() == {*VM_NODES, OTHER_NODE} and ready_agents(cluster) == 3, 60)
        assert {name: agents(cluster)[name] for name in VM_NODES} == before
    finally:
        label(cluster, VM_NODES[0], "true")
        label(cluster, OTHER_NODE, None)
    until(lambda: agents(cluster) == before, 60)


def agents(cluster: ControlPlane) -> dict[str, str]:
    """Return the uid of each agent's pod, by its node."""
    found = get(cluster, "pods", WHERE, "--selector=app.kubernetes.io/component=agent")["items"]
    return {pod["spec"].get("nodeName", ""): pod["metadata"]["uid"] for pod in found}


def ready_agents(cluster: ControlPlane) -> int:
    """Return how many agents were ready when the DaemonSet controller last updated the status."""
    status: Object = get(cluster, "daemonset", "kubeballoon-agent", WHERE)["status"]
    return int(status["numberReady"])


def label(cluster: ControlPlane, node: str, value: str | None) -> None:
    """Set KubeVirt's label, which says whether it may start VMs on a node; None removes the label."""
    cluster.kubectl("label", "node", node, "--overwrite", "kubevirt.io/schedulable" + (f"={value}" if value else "-"))


@pytest.mark.usefixtures("notes")
def test_its_agent_reports_with_its_own_token(cluster: ControlPlane, tmp_path: Path) -> None:
    pod = pods.running_pod(cluster, NAMESPACE, "agent")
    name = pod["spec"]["nodeName"]
    (container,) = pod["spec"]["containers"]
    (tmp_path / "pods").mkdir()
    container["args"] += [f"--node-name={name}", f"--pods-dir={tmp_path / 'pods'}"]  # not this machine's
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
    until(lambda: get(cluster, *deployment)["status"].get("readyReplicas") == 3, 60)  # helm waits for fewer
    assert get(cluster, "mempol", "default")["metadata"]["generation"] == 1
    assert len(node.targets()) == 3


def installed_objects(cluster: ControlPlane) -> set[str]:
    """Return the names of the objects that the chart has installed, CRDs left out."""
    ours = "--selector=app.kubernetes.io/instance=kubeballoon"
    kinds = ((IN_NAMESPACE, WHERE), (EVERYWHERE, ours))
    return {name for what in kinds for name in cluster.kubectl("get", *what, "--output=name").split()}


def run_hook(cluster: ControlPlane, log: Path, node: FakeNode, controller: Command, *, stuck: bool = False) -> None:
    """Run the command of helm's hook, and report as the agent would; with ``stuck``, no balloon moves."""
    pod = pods.running_pod(cluster, NAMESPACE, "uninstall")
    if stuck:
        pod["spec"]["containers"][0]["args"].append("--wait=30s")  # instead of the chart's four minutes
    with pods.run(cluster, pod, log) as command:
        until(lambda: "request withdrawn" in command.output(), 60)
        until(lambda: "leadership was lost" in controller.output(), 60)  # until then it may write requests again
        assert controller.process.poll() is None, "it stands by"
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
    before = installed_objects(cluster)
    with ThreadPoolExecutor() as pool:
        uninstalled = pool.submit(uninstall, cluster)
        run_hook(cluster, tmp_path / "log", node, controller, stuck=True)
        with pytest.raises(ControlPlaneError, match="kubeballoon-uninstall"):
            uninstalled.result()
    last = (tmp_path / "log").read_text().splitlines()[-1]
    assert "not all memory is back after 30s" in last
    assert all(f"{GUESTS}/{name} on {node.name}" in last for name in node.vms)
    assert installed_objects(cluster) >= before | {"job.batch/kubeballoon-uninstall"}
    await_leadership(controller, terms=1)
    until(lambda: len(node.targets()) == 3, 60)


def test_an_uninstallation_gives_everything_back_first(
    node: FakeNode, controller: Command, cluster: ControlPlane, tmp_path: Path
) -> None:
    node.report(follow=True)
    with ThreadPoolExecutor() as pool:
        uninstalled = pool.submit(uninstall, cluster)
        run_hook(cluster, tmp_path / "log", node, controller)
        uninstalled.result()
    assert "leadership was lost" in controller.output()
    assert all(controller_annotations(cluster, GUESTS, name) == {} for name in node.vms)
    assert "every VM has its memory" in (tmp_path / "log").read_text()
    assert not installed_objects(cluster)
    # The CRDs and all policies are kept.
    assert get(cluster, "mempol", "default")["spec"]["selector"] == {}


def test_crds_that_are_not_to_be_kept_are_deleted(node: FakeNode, cluster: ControlPlane) -> None:
    with suppress(ControlPlaneError):
        uninstall(cluster, "--no-hooks")
    install(cluster, "--set=crds.keep=false,uninstall.enabled=false")
    node.remove()
    printed = uninstall(cluster)
    assert "kept due to the resource policy" not in printed
    until(lambda: not cluster.kubectl("get", CRD, "--ignore-not-found"), 60)
