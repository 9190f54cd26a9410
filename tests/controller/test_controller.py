"""The controller as a real process on the real API server; the test plays the agent."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from functools import partial
from pathlib import Path

import pytest

from hack.testbed.controlplane import ControlPlane
from kubeballoon.api.quantity import parse_quantity
from kubeballoon.controller.wait_times import DEFAULT_TIMING
from tests.support.cluster import MIB, FakeNode, Object, condition, controller_annotations, get, memory_policy
from tests.support.processes import SYSTEM, Command, await_leadership, controller
from tests.support.waiting import throughout, until

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("leader")]

# Seconds within which a change comes that waits for a VM's cool-down: the next resync makes it.
DEFERRED = 2 * DEFAULT_TIMING.resync + 10


@pytest.fixture
def three_vms(node: FakeNode) -> FakeNode:
    """The node of 1200 MiB, with three VMs of 512 MiB each, a, b and c, which its agent has not reported yet."""
    for name in ("a", "b", "c"):
        node.add(name)
    return node


@pytest.fixture
def three_requests(installed: ControlPlane, three_vms: FakeNode) -> FakeNode:
    """The node with three VMs, after the policy "default" has led to a request for each."""
    three_vms.report()
    installed.apply(memory_policy("default"))
    until(lambda: len(three_vms.targets()) == 3)
    return three_vms


def test_an_overcommitted_node_is_brought_within_its_capacity(installed: ControlPlane, node: FakeNode) -> None:
    for name in ("a", "b", "c", "d"):
        node.add(name)
    node.report()
    installed.apply(memory_policy("default"))
    until(lambda: len(node.targets()) == 4)
    assert sum(node.targets().values()) <= node.total
    for name in node.vms:
        request = controller_annotations(installed, node.namespace, name)
        assert re.fullmatch(r"[0-9]+([KMGT]i)?", request["memory-target"])
        assert request["memory-min"] == "256Mi"
        assert request["policy"] == "default"
        assert "taxed at 75 %" in request["reason"]


@pytest.mark.usefixtures("three_requests")
def test_a_grant_waits_until_the_memory_for_it_is_free(node: FakeNode) -> None:
    node.report(follow=True)
    first = node.targets()
    node.vms["a"]["need"] = str(500 * MIB)
    node.report(follow=True)
    until(lambda: node.targets()["b"] < first["b"], DEFERRED)
    lowered = node.targets()
    assert lowered["a"] + first["b"] + first["c"] <= node.total
    node.report(follow=True)
    until(lambda: node.targets()["a"] > lowered["a"], DEFERRED)
    assert sum(node.targets().values()) <= node.total


def test_nothing_is_written_when_nothing_changes(installed: ControlPlane, node: FakeNode) -> None:
    node.add("a")
    node.add("b", size=1024 * MIB)
    node.report()
    installed.apply(memory_policy("default"))
    until(lambda: len(node.targets()) == 2)
    node.report(follow=True)
    until(lambda: condition(installed, "default", "Ready").get("status") == "True")

    def versions() -> list[str]:
        items = get(installed, "vmi", f"--namespace={node.namespace}")["items"]
        return [item["metadata"]["resourceVersion"] for item in items]

    before = versions()
    for _ in range(3):
        node.report(follow=True)
    throughout(lambda: versions() == before, 2)


@pytest.mark.usefixtures("three_requests")
def test_an_agent_s_emergency_target_becomes_the_request(node: FakeNode) -> None:
    target = node.targets()["a"] - 10 * MIB  # so little below the request that the controller has no reason to differ
    node.vms["a"] |= {"emergencyTarget": str(target), "actual": str(target)}
    node.report()
    until(lambda: node.targets()["a"] == target)


@pytest.mark.usefixtures("three_vms")
def test_a_vm_recreated_under_its_name_is_not_hit(installed: ControlPlane, node: FakeNode) -> None:
    node.vms["a"]["uid"] = "00000000-0000-0000-0000-000000000000"
    node.report()
    installed.apply(memory_policy("default"))
    until(lambda: {"b", "c"} <= node.targets().keys())
    assert "a" not in node.targets()


@pytest.mark.usefixtures("three_requests")
def test_deleting_the_policy_gives_everything_back(installed: ControlPlane, node: FakeNode) -> None:
    node.report(follow=True)
    installed.kubectl("delete", "mempol", "default")
    until(lambda: all(controller_annotations(installed, node.namespace, name) == {} for name in node.vms))


@pytest.mark.usefixtures("three_vms")
def test_observing_changes_nothing_and_says_so(installed: ControlPlane, node: FakeNode) -> None:
    node.report()
    installed.apply(memory_policy("watch", mode="Observe"))
    reclaimed = until(
        lambda: re.search(r"it would reclaim ([0-9]+) MiB", str(condition(installed, "watch", "Ready").get("message")))
    )
    assert reclaimed is not None
    assert int(reclaimed[1]) in range(3 * 512 - 1200, 3 * 512 - 1200 + 20), (
        "what exceeds the node, and a little to spare"
    )
    assert condition(installed, "watch", "Ready")["reason"] == "Observing"
    assert node.targets() == {}


def test_priority_and_names_decide_who_governs(installed: ControlPlane, node: FakeNode) -> None:
    node.add("a", labels={"tier": "gold"})
    node.add("b")
    node.report()
    gold = {"virtualMachineSelector": {"matchLabels": {"tier": "gold"}}}
    installed.apply(memory_policy("gold", selector=gold, priority=10, memory={"min": "100%"}))
    installed.apply(memory_policy("base"))
    installed.apply(memory_policy("alike"))

    def governing() -> list[str | None]:
        return [controller_annotations(installed, node.namespace, name).get("policy") for name in "ab"]

    until(lambda: governing() == ["gold", "alike"])
    until(lambda: condition(installed, "base", "Conflicted").get("status") == "True")
    assert "alike governs" in condition(installed, "base", "Conflicted")["message"]
    assert condition(installed, "gold", "Conflicted")["status"] == "False"
    assert condition(installed, "base", "Ready")["reason"] == "NotGoverning"


def test_a_policy_that_selects_nothing_says_so(installed: ControlPlane, node: FakeNode) -> None:
    node.add("a")
    node.report()
    nowhere = {"namespaceSelector": {"matchLabels": {"no": "where"}}}
    installed.apply(memory_policy("lost", selector=nowhere))
    until(lambda: condition(installed, "lost", "Ready").get("reason") == "NoVirtualMachines")
    ready = condition(installed, "lost", "Ready")
    assert ready["status"] == "True", "it is accepted, and Flux does not wait for VMs"
    assert get(installed, "mempol", "lost")["status"]["governed"] == 0
    assert ready["observedGeneration"] == 1


@pytest.mark.usefixtures("three_vms")
def test_namespaces_are_selected_by_their_labels(installed: ControlPlane, node: FakeNode) -> None:
    node.report()
    installed.apply(memory_policy("team", selector={"namespaceSelector": {"matchLabels": {"team": node.namespace}}}))
    until(lambda: condition(installed, "team", "Ready").get("reason") == "NoVirtualMachines")
    installed.kubectl("label", "namespace", node.namespace, f"team={node.namespace}")
    until(lambda: len(node.targets()) == 3)


def test_vms_that_must_be_left_alone_are_counted_by_reason(installed: ControlPlane, node: FakeNode) -> None:
    node.add("barred", eligible=False, reason="VFIO", message="a device passed through pins its memory")
    node.add("mine", ownerExcluded=True)
    node.add("stuck", responsive=False)
    node.add("a")
    node.report()
    installed.apply(memory_policy("default"))
    until(lambda: len(get(installed, "mempol", "default").get("status", {}).get("excluded", [])) == 2)
    status = get(installed, "mempol", "default")["status"]
    assert status["excluded"] == [{"reason": "OwnerExcluded", "count": 1}, {"reason": "VFIO", "count": 1}]
    assert (status["matched"], status["governed"]) == (4, 4)
    assert condition(installed, "default", "Degraded")["reason"] == "Unresponsive"
    assert node.targets().keys() == {"a"}
    installed.apply(memory_policy("default", ownerExclusion="Deny"))
    until(lambda: node.targets().keys() == {"a", "mine"})


@pytest.mark.usefixtures("three_vms")
def test_minimums_that_do_not_fit_are_reported_in_bytes(installed: ControlPlane, node: FakeNode) -> None:
    node.report()
    installed.apply(memory_policy("greedy", memory={"min": "100%"}))
    until(lambda: condition(installed, "greedy", "Shortfall").get("status") == "True")
    message = condition(installed, "greedy", "Shortfall")["message"]
    assert node.name in message
    assert f"({(3 * 512 - 1200) * MIB} bytes)" in message
    assert set(node.targets().values()) == {512 * MIB}


@pytest.mark.usefixtures("three_vms")
def test_a_shortfall_is_posted_as_an_event_once_even_if_the_first_round_finds_it(
    installed: ControlPlane, node: FakeNode
) -> None:
    def node_events() -> list[Object]:
        events = get(installed, "events", "--namespace=default")["items"]
        about_nodes = [event for event in events if event["involvedObject"]["kind"] == "Node"]
        return [event for event in about_nodes if event["involvedObject"]["name"] == node.name]

    installed.apply(memory_policy("greedy", memory={"min": "100%"}))
    node.report()  # the controller's first round for the node finds the shortfall
    (event,) = until(node_events)
    assert (event["type"], event["reason"]) == ("Warning", "Shortfall")
    assert f"capacity of {node.name} for VMs by" in event["message"]
    assert f"({(3 * 512 - 1200) * MIB} bytes)" in event["message"]
    node.report(follow=True)
    throughout(lambda: len(node_events()) == 1, 3)


@pytest.mark.usefixtures("three_vms")
def test_vms_that_could_use_more_than_the_node_has_are_reported(installed: ControlPlane, node: FakeNode) -> None:
    node.report()
    installed.apply(memory_policy("late", reclaim={"when": "UnderPressure"}))
    until(lambda: condition(installed, "late", "AtRisk").get("status") == "True")
    assert f"336 MiB on {node.name}" in condition(installed, "late", "AtRisk")["message"]


@pytest.mark.usefixtures("three_vms")
def test_nothing_is_decided_for_a_node_whose_agent_is_silent(installed: ControlPlane, node: FakeNode) -> None:
    node.report(age=600)
    installed.apply(memory_policy("default"))
    until(lambda: condition(installed, "default", "Degraded").get("reason") == "AgentSilent")
    for kind in ("Ready", "Shortfall", "AtRisk"):
        assert condition(installed, "default", kind)["status"] == "Unknown"
    assert node.targets() == {}


def test_a_vm_s_transitions_are_posted_as_events_once(installed: ControlPlane, node: FakeNode) -> None:
    for name in ("a", "b"):
        node.add(name)
    node.report()
    installed.apply(memory_policy("default"))
    until(lambda: len(node.targets()) == 2)
    node.add("c")
    node.report(follow=True)

    def vms_with_event(reason: str) -> list[str]:
        events = get(installed, "events", f"--namespace={node.namespace}")["items"]
        return [event["involvedObject"]["name"] for event in events if event["reason"] == reason]

    until(lambda: sorted(vms_with_event("MemoryReclaimed")) == ["a", "b"], DEFERRED)
    for _ in range(2):
        node.report(follow=True)
    del node.vms["c"]
    node.report(follow=True)
    until(lambda: sorted(vms_with_event("MemoryReturned")) == ["a", "b"], DEFERRED)
    assert sorted(vms_with_event("MemoryReclaimed")) == ["a", "b"]


def test_users_objects_are_left_clean(installed: ControlPlane, node: FakeNode) -> None:
    node.add("a")
    node.report()
    installed.apply(memory_policy("default"))
    until(node.targets)
    for kind, name in (("mempol", "default"), ("nodepressure", node.name), ("namespace", node.namespace)):
        metadata = get(installed, kind, name)["metadata"]
        assert not metadata.get("finalizers")
        assert not [key for key in metadata.get("annotations", {}) if "kopf" in key]


def test_a_second_replica_stands_by(installed: ControlPlane, leader: Command, tmp_path: Path) -> None:
    with controller(installed, tmp_path / "log") as second:
        until(lambda: "standing by" in second.output())
        lease = get(installed, "lease", "kubeballoon-controller", f"--namespace={SYSTEM}")["spec"]
        assert lease["holderIdentity"].endswith(f"_{leader.process.pid}")
        assert second.stop() == 0


def test_the_lease_is_handed_back_and_the_probes_answer(
    installed: ControlPlane, tmp_path: Path, unused_tcp_port: int
) -> None:
    own = ("--kubeconfig", str(installed.kubeconfig), "--namespace=default", f"--listen=127.0.0.1:{unused_tcp_port}")
    with Command(tmp_path / "log", "controller", *own) as command:
        await_leadership(command)
        for path in ("healthz", "readyz"):
            address = f"http://127.0.0.1:{unused_tcp_port}/{path}"
            until(partial(_says_ok, address), tell=partial(_body, address))
        assert command.stop() == 0
        assert "Traceback" not in command.output()
    lease = get(installed, "lease", "kubeballoon-controller", "--namespace=default")["spec"]
    assert not lease.get("holderIdentity")


def _says_ok(address: str) -> bool:
    return _body(address) == "ok\n"


def _body(address: str) -> str:
    try:
        with urllib.request.urlopen(address, timeout=2) as answer:  # noqa: S310 - an address of our own
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        with error:
            return str(error.read().decode())
    except OSError:
        return ""


def test_an_unreachable_api_server_is_one_line_and_no_exit(installed: ControlPlane, tmp_path: Path) -> None:
    view = json.loads(installed.kubectl("config", "view", "--raw", "--output=json"))
    view["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    (tmp_path / "kubeconfig").write_text(json.dumps(view))
    with Command(tmp_path / "log", "controller", f"--kubeconfig={tmp_path / 'kubeconfig'}", "--namespace=x") as command:
        until(lambda: "cannot be reached" in command.output())
        throughout(lambda: command.process.poll() is None, 4)
        assert len(command.output().splitlines()) == 1
        assert command.stop() == 0


def test_a_missing_privilege_is_named(installed: ControlPlane, namespace: str, tmp_path: Path) -> None:
    installed.kubectl("create", "serviceaccount", "nobody", f"--namespace={namespace}")
    kubeconfig = installed.service_account_kubeconfig(namespace, "nobody")
    with Command(tmp_path / "log", "controller", f"--kubeconfig={kubeconfig}", f"--namespace={namespace}") as command:
        until(lambda: "cannot get resource" in command.output())
        assert "leases" in command.output()
        assert "Traceback" not in command.output()
        assert command.stop() == 0


@pytest.mark.usefixtures("three_vms")
def test_targets_are_exact_to_the_byte(installed: ControlPlane, node: FakeNode) -> None:
    node.total = 1200 * MIB + 1
    node.report()
    installed.apply(memory_policy("default", memory={"headroom": MIB + 1}))
    until(lambda: len(node.targets()) == 3)
    assert sum(node.targets().values()) == node.total - node.total // 128
    shown = [controller_annotations(installed, node.namespace, name)["memory-target"] for name in node.vms]
    assert [parse_quantity(text) for text in shown] == list(node.targets().values())


def test_a_stolen_agent_s_report_of_another_node_s_vms_moves_none_of_them(
    installed: ControlPlane, node: FakeNode
) -> None:
    node.add("a")
    node.add("b")
    node.report()
    installed.apply(memory_policy("default"))
    until(lambda: len(node.targets()) == 2)
    node.report(follow=True)
    requests = {name: controller_annotations(installed, node.namespace, name) for name in node.vms}
    forger = FakeNode(installed, f"forger-{node.namespace}", node.namespace, total=64 * MIB)
    forger.vms = {name: {**vm, "need": "1Mi"} for name, vm in node.vms.items()}
    try:

        def named() -> bool:
            forger.report(state="Critical")
            return condition(installed, "default", "Degraded").get("reason") == "Misreported"

        until(named, 3 * DEFERRED)
        assert condition(installed, "default", "Degraded")["message"].startswith(
            f"{forger.name} reports VMs that it does"
        )
        assert {name: controller_annotations(installed, node.namespace, name) for name in node.vms} == requests
    finally:
        installed.kubectl("delete", "nodepressure", forger.name)
        installed.kubectl("delete", "node", forger.name)
