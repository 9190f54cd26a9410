"""kubeballoon on a real KubeVirt cluster, installed by its chart from images of this checkout."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from hack.testbed.chart import NAMESPACE as SYSTEM
from hack.testbed.chart import RELEASE, helm, render
from hack.testbed.controlplane import ControlPlane
from hack.testbed.kubevirt import product
from tests.e2e.conftest import LEAST, SECONDS, pods, reclaimed, whole
from tests.support.cluster import MIB, condition, controller_annotations, get
from tests.support.kubevirt import NAMESPACE, VM, migrate
from tests.support.waiting import throughout, until


def test_the_images_start_as_the_chart_runs_them(plane: ControlPlane) -> None:
    for part in ("controller", "agent"):
        assert len(until(lambda part=part: pods(plane, part), SECONDS)) == 2  # type: ignore[misc]

    def leaders() -> list[str]:
        logs = {
            pod: plane.kubectl("logs", pod, f"--namespace={SYSTEM}", "--tail=-1") for pod in pods(plane, "controller")
        }
        return [pod for pod, log in logs.items() if "leading as" in log]

    # Who installs soon after an uninstallation may have to wait until its Lease has run out.
    assert len(until(leaders, SECONDS)) == 1
    listed = get(plane, "pod", f"--namespace={SYSTEM}")["items"]
    # A leader ends when it could not renew its Lease in time, as on a machine that is too busy for its API server.
    names = [pod["metadata"]["name"] for pod in listed if restarts(pod)]
    ends = [plane.kubectl("logs", name, f"--namespace={SYSTEM}", "--previous") for name in names]
    assert [log for log in ends if "leadership was lost" not in log] == []


def test_helm_test_passes_and_says_who_leads(plane: ControlPlane) -> None:
    test = ("test", RELEASE, "--namespace", SYSTEM, "--logs", f"--timeout={SECONDS:g}s")
    said = helm(*test, kubeconfig=plane.kubeconfig, seconds=SECONDS + 30)
    leader = re.search(r"^Controller (\S+) leads", said, re.MULTILINE)
    assert leader is not None, said
    assert leader[1].partition("_")[0] in pods(plane, "controller")


_LOOK = """
import errno, os, pwd, socket
import kubeballoon.{part}.main
try:
    open("/written", "w")
except OSError as error:
    print(errno.errorcode[error.errno])
print(os.getuid(), os.getuid() in [each.pw_uid for each in pwd.getpwall()])
try:
    socket.getaddrinfo("kubernetes.default.svc", 443)
except OSError:
    print("no DNS")
"""


_NAMELESS = 65533
"""A user that no image has a name for, as OpenShift chooses users."""


@pytest.mark.parametrize(
    ("part", "user", "told"),
    [
        ("controller", None, "65532 True"),
        ("controller", _NAMELESS, f"{_NAMELESS} False"),
        ("uninstall", None, "65532 True"),
        ("uninstall", _NAMELESS, f"{_NAMELESS} False"),
        ("agent", None, "0 True"),
    ],
)
def test_an_image_loads_all_of_its_program_read_only_and_without_dns(
    plane: ControlPlane, part: str, user: int | None, told: str
) -> None:
    template = next(
        item["spec"]["template"]
        for item in render(*product.options())
        if item["metadata"]["name"] == f"{RELEASE}-{part}" and "template" in item.get("spec", {})
    )
    (container,) = template["spec"]["containers"]
    kept = {key: container[key] for key in ("name", "image", "imagePullPolicy", "securityContext")}
    looks = {**kept, "command": [product.PYTHON, "-c", _LOOK.format(part=part)]}
    if user is not None:
        looks["securityContext"] = {**kept["securityContext"], "runAsUser": user}
    nowhere = {"dnsPolicy": "None", "dnsConfig": {"nameservers": ["127.0.0.1"]}, "restartPolicy": "Never"}
    # The uninstaller's account is there only while it runs.
    spec = {**template["spec"], **nowhere, "containers": [looks], "serviceAccountName": "default"}
    name = f"looks-{part}-{user or 'own'}"
    plane.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": SYSTEM}, "spec": spec})
    try:
        until(lambda: phase(plane, name) in ("Succeeded", "Failed"), SECONDS, lambda: phase(plane, name))
        log = plane.kubectl("logs", name, f"--namespace={SYSTEM}")
        assert log.splitlines() == ["EROFS", told, "no DNS"]
    finally:
        plane.kubectl("delete", "pod", name, f"--namespace={SYSTEM}", "--wait=false")


def phase(plane: ControlPlane, pod: str) -> str | None:
    """A pod's phase; None while it has none."""
    found: str | None = get(plane, "pod", pod, f"--namespace={SYSTEM}").get("status", {}).get("phase")
    return found


def restarts(pod: dict[str, object]) -> int:
    """How often a pod's containers were started again."""
    statuses = json.loads(json.dumps(pod))["status"].get("containerStatuses", [])
    return sum(status["restartCount"] for status in statuses)


# A guest's kernel uses 240 MiB. A load of less than that below what the VM has needs more than it has. And where the
# balloon holds at least `_ROOM`, the VM has room for the load, the kernel, and what `VM.fill` leaves free.
_LESS_THAN_HELD = 128 * MIB
_ROOM = 256 * MIB


def test_a_policy_reclaims_memory_a_load_gets_it_and_deletion_gives_all_back(
    plane: ControlPlane, squeezed: tuple[VM, VM], policy: str
) -> None:
    calm, busy = squeezed
    before = until(lambda: held if (held := busy.actual()) <= busy.memory - _ROOM else 0, SECONDS, busy.actual)
    busy.fill(before - _LESS_THAN_HELD)
    assert busy.actual() > before
    until(lambda: calm.actual() < before, SECONDS, calm.actual)
    busy.empty()
    plane.kubectl("delete", "mempol", policy)
    until(lambda: all(map(whole, squeezed)), SECONDS, lambda: reclaimed(squeezed))


def test_an_inflated_balloon_migrates_to_the_other_node_and_its_agent_goes_on(
    plane: ControlPlane, squeezed: tuple[VM, VM]
) -> None:
    vm, other = squeezed
    before = vm.node()
    assert other.node() == before
    migrate(vm)
    # Each node has one VM now, and room for all of it.
    until(lambda: vm.actual() == vm.memory, SECONDS, vm.actual)

    def reported() -> list[str]:
        status = get(plane, "nodepressure", vm.node()).get("status", {})
        return [each["name"] for each in status.get("virtualMachines", [])]

    until(lambda: vm.name in reported(), SECONDS, reported)
    migrate(vm)
    assert vm.node() == before
    until(lambda: reclaimed(squeezed) > LEAST, SECONDS, lambda: reclaimed(squeezed))


def test_kubectl_balloon_tells_what_happened(plane: ControlPlane, squeezed: tuple[VM, VM], policy: str) -> None:
    vm = squeezed[0]
    until(lambda: condition(plane, policy, "Ready").get("status") == "True", SECONDS)

    def explained() -> str:
        return balloon(plane, "explain", vm.name, f"--namespace={NAMESPACE}")

    until(lambda: policy in explained(), SECONDS, explained)
    assert "node-1" in balloon(plane, "top", "nodes")
    lease = get(plane, "lease", "kubeballoon-controller", f"--namespace={SYSTEM}")
    assert lease["spec"]["holderIdentity"].rpartition("_")[0] in pods(plane, "controller")
    of_vm = f"--field-selector=involvedObject.kind=VirtualMachineInstance,involvedObject.name={vm.name}"

    def reporters() -> set[str]:
        events = get(plane, "events", f"--namespace={NAMESPACE}", of_vm)["items"]
        return {event.get("reportingComponent", "") for event in events}

    until(lambda: "kubeballoon.io/controller" in reporters(), SECONDS, reporters)  # events have a queue of their own


def test_metrics_of_the_pods_tell_what_was_reclaimed_and_of_one_leader(
    plane: ControlPlane, squeezed: tuple[VM, VM], policy: str
) -> None:
    def value(part: str, metric: str, **labels: str) -> float:
        found = samples(plane, part, metric)
        return sum(sample.value for sample in found if labels.items() <= sample.labels.items())

    def left(kind: str) -> float:
        return value("agent", "kubeballoon_vm_memory_bytes", namespace=NAMESPACE, policy=policy, kind=kind)

    size = sum(vm.memory for vm in squeezed)
    # Each is awaited: an agent names a VM's policy from its next look on, the controller counts at the next report.
    until(lambda: left("size") == size, SECONDS, lambda: left("size"))
    until(lambda: size - left("actual") > LEAST, SECONDS, lambda: left("actual"))
    node = squeezed[0].node()
    until(lambda: value("controller", "kubeballoon_node_reclaimed_bytes", node=node) > LEAST, SECONDS)
    until(lambda: value("controller", "kubeballoon_policy_virtual_machines", policy=policy) == len(squeezed), SECONDS)
    until(lambda: value("controller", "kubeballoon_leader") == 1.0, SECONDS)  # the other's is 0


def samples(plane: ControlPlane, part: str, metric: str) -> list[Sample]:
    """A metric's samples from all pods of a part."""
    port = "8080/proxy/metrics"
    texts = [plane.kubectl("get", f"--raw=/api/v1/namespaces/{SYSTEM}/pods/{pod}:{port}") for pod in pods(plane, part)]
    families = [family for text in texts for family in text_string_to_metric_families(text)]
    return [sample for family in families for sample in family.samples if sample.name == metric]


def balloon(plane: ControlPlane, *arguments: str) -> str:
    """What `kubectl balloon` prints."""
    command = [sys.executable, "-m", "kubeballoon.cli.main", *arguments]
    environment = {**os.environ, "KUBECONFIG": str(plane.kubeconfig)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode in (0, 3), ended.stderr
    return ended.stdout


@pytest.mark.parametrize("part", ["agent", "controller"])
def test_balloons_stay_while_pods_are_replaced(plane: ControlPlane, squeezed: tuple[VM, VM], part: str) -> None:
    before = pods(plane, part)
    plane.kubectl("delete", "pod", *before, f"--namespace={SYSTEM}", "--wait=false")

    def replaced() -> bool:
        now = pods(plane, part)
        assert reclaimed(squeezed) > LEAST
        return len(now) == len(before) and not set(now) & set(before)

    until(replaced, SECONDS)
    throughout(lambda: reclaimed(squeezed) > LEAST, 10.0)


def test_helm_uninstall_gives_all_memory_back(plane: ControlPlane, squeezed: tuple[VM, VM]) -> None:
    product.uninstall(plane)
    try:
        assert [vm.actual() for vm in squeezed] == [vm.memory for vm in squeezed]
        assert [controller_annotations(plane, NAMESPACE, vm.name) for vm in squeezed] == [{}, {}]
    finally:
        product.install(plane)
