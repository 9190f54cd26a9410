"""kubectl-balloon's commands on a real API server, where the tests write the agents' reports."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import yaml

from hack.testbed.controlplane import ControlPlane
from tests.support.cli import balloon
from tests.support.cluster import (
    AS_CONTROLLER,
    MIB,
    FakeNode,
    Object,
    condition,
    is_allowed,
    memory_policy,
    node_policy,
    processor_policy,
)
from tests.support.processes import Command
from tests.support.waiting import until

pytestmark = pytest.mark.cluster

Cli = Callable[..., CompletedProcess[str]]


@pytest.fixture
def busy(installed: ControlPlane, node: FakeNode) -> FakeNode:
    """An overcommitted node: one VM works with nearly all of its memory, two are idle, one is not to be ballooned."""
    node.add("busy", need=str(480 * MIB))
    node.add("idle")
    node.add("lazy")
    node.add("barred", size=64 * MIB, eligible=False, reason="VFIO", message="a device passed through pins its memory")
    node.report()
    installed.apply(memory_policy("default"))
    return node


def rows(table: str) -> list[list[str]]:
    """A table's cells."""
    return [line.split() for line in table.splitlines()]


def test_top_nodes_shows_the_node_and_json_and_yaml_agree(cli: Cli, busy: FakeNode) -> None:
    result = cli("top", "nodes", "-o", "wide")
    assert result.returncode == 0, result.stderr
    header, *nodes = rows(result.stdout)
    line = dict(zip(header, next(row for row in nodes if row[0] == busy.name), strict=False))
    assert (line["STATE"], line["TOTAL"], line["VMS"], line["RELEASED"]) == ("Ample", "1.2Gi", "4", "no")
    documents = [
        json.loads(cli("top", "nodes", "-o", "json").stdout),
        yaml.safe_load(cli("top", "nodes", "-o", "yaml").stdout),
    ]
    for document in documents:
        (found,) = (each for each in document["nodes"] if each["name"] == busy.name)
        assert (found["capacity"], found["size"]) == (1200 * MIB, (3 * 512 + 64) * MIB)
        assert found["processors"] == {"count": 4, "usage": 10, "stall": 0, "size": 16, "reclaimed": 0, "shortfall": 0}
    assert (line["CPUS"], line["CPU%"], line["STALL%"], line["CPUS-RECLAIMED"]) == ("4", "10%", "0%", "0/16")


def test_top_vms_shows_a_namespace_a_node_or_all(cli: Cli, installed: ControlPlane, busy: FakeNode) -> None:
    mine = cli("top", "vms", f"--namespace={busy.namespace}", "--sort-by=demand")
    header, first, *_ = rows(mine.stdout)
    assert header[:3] == ["NAMESPACE", "VM", "NODE"]
    assert first[1] == "busy"
    assert dict(zip(header, first, strict=False))["CPUS"] == "4/4"
    assert "no policy" not in mine.stdout
    every = json.loads(cli("top", "vms", f"--node={busy.name}", "-o", "json").stdout)["virtualMachines"]
    assert [vm["name"] for vm in every] == ["barred", "busy", "idle", "lazy"]
    assert every[0]["reason"] == "Excluded"
    view = yaml.safe_load(installed.kubectl("config", "view", "--raw", "--output=json"))
    view["contexts"][0]["context"]["namespace"] = busy.namespace
    elsewhere = installed.kubeconfig.with_name(f"{busy.namespace}.kubeconfig")
    elsewhere.write_text(json.dumps(view))
    assert rows(balloon(elsewhere, "top", "vms").stdout)[1][0] == busy.namespace
    assert "no agent reports a node none" in cli("top", "vms", "--node=none").stderr
    nothing = cli("top", "vms", "--namespace=none")
    assert (nothing.returncode, nothing.stdout, len(nothing.stderr.splitlines())) == (0, "", 1)


def test_top_vms_shows_the_vms_of_a_policy(cli: Cli, installed: ControlPlane, node: FakeNode) -> None:
    node.add("gold", labels={"tier": "gold"})
    node.add("other")
    node.report()
    installed.apply(memory_policy("all"))
    gold = {"virtualMachineSelector": {"matchLabels": {"tier": "gold"}}}
    installed.apply(processor_policy("cpus", selector=gold))

    def vm_names(policy: str) -> list[str]:
        document = json.loads(cli("top", "vms", "-A", f"--policy={policy}", "-o", "json").stdout)
        return [vm["name"] for vm in document["virtualMachines"]]

    assert vm_names("all") == ["gold", "other"]
    assert vm_names("cpus") == ["gold"]
    assert cli("top", "vms", "--policy=none").stderr == "kubectl balloon: there is no policy none\n"


@pytest.fixture
def short(installed: ControlPlane, node: FakeNode) -> FakeNode:
    """A node short of processors, whose VMs are asked for some; one's guest does not follow."""
    for name in ("given", "stuck", "pinned"):
        node.add(name)
    installed.apply(processor_policy("cpus", processors={"min": 1, "max": 3}, coolDown="1h"))
    request = ("kubeballoon.io/processor-target=2", "kubeballoon.io/processor-policy=cpus")
    namespace = f"--namespace={node.namespace}"
    installed.kubectl("annotate", "vmi", "given", "stuck", namespace, *request, *AS_CONTROLLER)
    pinned = {"eligible": False, "reason": "DedicatedCPU", "message": "it has dedicated CPUs"}
    node.vms["pinned"]["processors"] |= pinned
    node.processors = {"count": 3, "usage": 97, "stall": 61}
    node.report(follow=True)
    unresponsive = {
        "online": 4,
        "responsive": False,
        "reason": "NotFollowing",
        "message": "its guest uses 4 processors",
    }
    node.vms["stuck"]["processors"] |= unresponsive
    node.vms["given"]["processors"]["usage"] = 180
    node.report()
    return node


def test_processors_are_shown_beside_memory(cli: Cli, short: FakeNode) -> None:
    vms = json.loads(cli("top", "vms", f"--node={short.name}", "-o", "json").stdout)["virtualMachines"]
    given, pinned, stuck = (vm["processors"] for vm in vms)
    assert (given["policy"], given["size"], given["online"], given["offlinable"]) == ("cpus", 4, 2, 3)
    assert (given["usage"], given["target"], given["min"], given["max"]) == (180, 2, 1, 3)
    assert (given["method"], given["reason"]) == ("GuestAgent", "AtMinimum")
    assert (pinned["reason"], pinned["message"]) == ("Excluded", "it has dedicated CPUs")
    assert (stuck["reason"], stuck["problem"]) == ("Unresponsive", "NotFollowing: its guest uses 4 processors")
    header, first, *_ = rows(cli("top", "vms", f"--node={short.name}", "--sort-by=cpu", "-o", "wide").stdout)
    line = dict(zip(header, first, strict=False))
    assert (line["VM"], line["CPUS"], line["CPU-TARGET"], line["CPU%"]) == ("given", "2/4", "2", "180%")
    assert (line["CPU-METHOD"], line["CPU-POLICY"], line["CPU-REASON"]) == ("GuestAgent", "cpus", "AtMinimum")
    status = yaml.safe_load(cli("status", "-o", "yaml").stdout)
    assert status["processors"] == {
        "governed": 3,
        "excluded": {"DedicatedCPU": 1},
        "unresponsive": 1,
        "size": 12,
        "reclaimed": 2,
        "usage": 97,
        "stall": 61,
    }
    assert [(policy["kind"], policy["processorsReclaimed"]) for policy in status["policies"]] == [
        ("ProcessorPolicy", 0)
    ]
    unresponsive = f"VMs whose guests do not follow requests for processors: {short.namespace}/stuck"
    assert unresponsive in status["attention"]
    text = cli("status").stdout
    assert "2 reclaimed of 12, of 3 VMs governed, left alone: 1 DedicatedCPU; 1 unresponsive" in text
    assert "nodes' usage up to 97%, stall up to 61%" in text


def test_explain_says_why_a_vm_has_its_processors(cli: Cli, installed: ControlPlane, short: FakeNode) -> None:
    def explained(vm: str) -> Object:
        explanation: Object = json.loads(cli("explain", f"{short.namespace}/{vm}", "-o", "json").stdout)
        processors: Object = explanation["processors"]
        return processors

    given = explained("given")
    assert (given["nodeUsage"], given["nodeStall"], given["current"]["target"]) == (97, 61, 2)
    assert (given["policy"]["name"], given["policy"]["max"], given["policy"]["coolDown"]) == ("cpus", 3, 3600)
    assert given["whyNotMore"][0] == "the node's 3 processors are divided by shares: usage 97 %, stall 61 %"
    assert given["whyNotFewer"] == [
        "1 is guaranteed to it by the min of its policy cpus",
        "2 are requested of it: a change to 1 waits for its policy's coolDown",
    ]
    stuck = explained("stuck")
    assert stuck["whyNotFewer"][-1] == "its guest uses 4 and should use 2: NotFollowing: its guest uses 4 processors"
    assert explained("pinned")["whyNotMore"] == ["it has dedicated CPUs"]
    text = cli("explain", f"{short.namespace}/given").stdout
    assert "Why not fewer processors?" in text
    assert "UnderPressure, priority 0" in text
    short.processors = {"count": 3, "usage": 10, "stall": 0}
    short.report(follow=True)
    ample = explained("given")
    assert ample["whyNotMore"] == [
        "its policy's max is 3",
        "2 are requested of it: a change to 3 waits for its policy's coolDown",
    ]
    (line,) = ample["whyNotFewer"]
    assert line.startswith("the node is not short of processors: usage 10 %, stall 0 %; its policy reclaims some from")
    installed.apply(processor_policy("cpus", mode="Observe"))
    assert explained("given")["whyNotFewer"] == ["its policy cpus only observes: nothing is requested of it"]


def test_an_agent_without_processors_is_shown_without(cli: Cli, installed: ControlPlane, node: FakeNode) -> None:
    node.add("a")
    node.report()
    patch = [{"op": "remove", "path": "/status/processors"}]
    where = ("--subresource=status", "--type=json", f"--patch={json.dumps(patch)}")
    installed.kubectl("patch", "nodepressure", node.name, *where)
    header, first = rows(cli("top", "vms", f"--node={node.name}", "-o", "wide").stdout)
    assert dict(zip(header, first, strict=False))["CPUS"] == "-"
    header, *lines = rows(cli("top", "nodes").stdout)
    assert dict(zip(header, next(line for line in lines if line[0] == node.name), strict=False))["CPUS"] == "-"
    assert "processors" not in json.loads(cli("explain", f"{node.namespace}/a", "-o", "json").stdout)
    assert cli("diff", "-f", "-", stdin=yaml.safe_dump(processor_policy("cpus"))).returncode == 0


def test_explain_says_why_not_more_and_why_not_less(cli: Cli, busy: FakeNode) -> None:
    idle = json.loads(cli("explain", f"{busy.namespace}/idle", "-o", "json").stdout)
    assert idle["policy"]["name"] == "default"
    assert (idle["policy"]["idleTax"], idle["policy"]["sharesPerGib"]) == (75, 1000)
    assert any("an idle byte costs as much as 4 in use" in line for line in idle["whyNotMore"])
    assert any(
        line.startswith("with idleTax 0, all else the same, it would be entitled to") for line in idle["whyNotMore"]
    )
    assert idle["whyNotLess"]
    busy_one = cli("explain", "busy", f"--namespace={busy.namespace}")
    assert "Why not more?" in busy_one.stdout
    assert "it may use all of its 512 MiB" in busy_one.stdout
    barred = json.loads(cli("explain", f"{busy.namespace}/barred", "-o", "json").stdout)
    assert barred["whyNotMore"] == barred["whyNotLess"] == ["a device passed through pins its memory"]


def test_explain_says_that_a_minimum_is_guaranteed(cli: Cli, installed: ControlPlane, busy: FakeNode) -> None:
    installed.apply(memory_policy("default", memory={"min": "400Mi"}))
    explanation = json.loads(cli("explain", f"{busy.namespace}/idle", "-o", "json").stdout)
    assert "400 MiB are guaranteed to it by the min of its policy default" in explanation["whyNotLess"]


@pytest.mark.parametrize(("emergency_target", "where"), [(400, "whyNotLess"), (300, "whyNotMore")])
def test_explain_says_what_the_agent_does_on_its_own(
    cli: Cli, installed: ControlPlane, busy: FakeNode, emergency_target: int, where: str
) -> None:
    request = ("kubeballoon.io/memory-target=350Mi", "kubeballoon.io/policy=default")
    installed.kubectl("annotate", "vmi", "idle", f"--namespace={busy.namespace}", *request, *AS_CONTROLLER)
    busy.vms["idle"].update(emergencyTarget=str(emergency_target * MIB), troubled=True)
    busy.report(state="Scarce")
    explanation = json.loads(cli("explain", f"{busy.namespace}/idle", "-o", "json").stdout)
    assert (explanation["emergencyTarget"], explanation["target"], explanation["troubled"]) == (
        emergency_target * MIB,
        350 * MIB,
        True,
    )
    (line,) = (
        line
        for line in explanation["whyNotMore"] + explanation["whyNotLess"]
        if "without waiting for the controller" in line
    )
    assert line == explanation[where][0]
    assert f"moves this VM to {emergency_target} MiB, in place of the 350 MiB requested" in line
    assert "what its agent moves it to instead" in cli("explain", f"{busy.namespace}/idle").stdout


@pytest.mark.usefixtures("leader")
def test_explain_shows_the_last_changes(cli: Cli, installed: ControlPlane, node: FakeNode) -> None:
    node.add("a")
    node.add("b")
    node.report()
    installed.apply(memory_policy("default"))
    until(lambda: len(node.targets()) == 2)
    node.add("c")
    node.report(follow=True)

    def changes() -> list[str]:
        explanation = json.loads(cli("explain", f"{node.namespace}/a", "-o", "json").stdout)
        return [change["reason"] for change in explanation.get("changes", [])]

    assert until(changes) == ["MemoryReclaimed"]


def test_status_is_well_only_when_all_is(cli: Cli, installed: ControlPlane, leader: Command, node: FakeNode) -> None:
    node.add("a")
    node.report()
    nothing = cli("status")
    assert nothing.returncode == 3
    assert "no policy: nothing is requested of any VM" in nothing.stdout
    installed.apply(memory_policy("default"))
    until(lambda: condition(installed, "default", "Ready").get("status") == "True")
    well = cli("status")
    assert (well.returncode, well.stdout.splitlines()[-1]) == (0, "All is well."), well.stdout
    assert leader.process.poll() is None
    assert re.match(rf"Controller \S+_{leader.process.pid} leads\n", well.stdout)
    node.add("b", responsive=False)
    node.report(state="Scarce")
    ill = json.loads(cli("status", "-o", "json").stdout)
    assert ill["states"] == {"Ample": 0, "Tight": 0, "Scarce": 1, "Critical": 0}
    assert ill["unresponsive"] == 1
    assert any(line.startswith(f"node {node.name}: state Scarce") for line in ill["attention"])
    assert any(f"{node.namespace}/b" in line for line in ill["attention"])
    node.report(age=600)
    assert "its agent has not reported for" in cli("status").stdout


def policies(directory: Path, *documents: dict[str, object]) -> Path:
    path = directory / "policies.yaml"
    path.write_text(yaml.safe_dump_all(documents))
    return path


@pytest.mark.usefixtures("busy")
def test_diff_shows_what_would_change_and_writes_nothing(cli: Cli, installed: ControlPlane, tmp_path: Path) -> None:
    stricter = policies(tmp_path, memory_policy("default", memory={"min": "350Mi"}), {"kind": "ConfigMap"})
    result = cli("diff", "-f", str(stricter))
    assert result.returncode == 0, result.stderr
    assert "MemoryPolicy default changed" in result.stdout
    line = next(row for row in rows(result.stdout) if row[1:2] == ["idle"])
    assert "256Mi→350Mi" in line
    assert installed.kubectl("get", "mempol", "default", "--output=jsonpath={.spec.memory.min}") == "", "as it was"
    assert cli("diff", "-f", str(stricter), "--fail-on=change").returncode == 3


def test_diff_of_what_is_there_changes_nothing(cli: Cli, busy: FakeNode, tmp_path: Path) -> None:
    same = policies(tmp_path, memory_policy("default"))
    result = cli("diff", "-f", str(tmp_path), "--fail-on=change")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == f"Nothing would change for {len(busy.vms)} VMs.\n"
    observed = json.loads(
        cli(
            "diff",
            "-f",
            "-",
            "-o",
            "json",
            stdin=same.read_text().replace("selector: {}", "selector: {}\n  mode: Observe"),
        ).stdout
    )
    (idle,) = (vm for vm in observed["virtualMachines"] if vm["name"] == "idle")
    assert (idle["after"], idle["changed"]) == (512 * MIB, True)
    assert idle["observed"] == idle["before"] < 512 * MIB


def test_diff_with_minimums_that_do_not_fit_ends_with_3(cli: Cli, busy: FakeNode, tmp_path: Path) -> None:
    greedy = policies(tmp_path, memory_policy("default", memory={"min": "100%"}))
    result = cli("diff", "-f", str(greedy), "-o", "json")
    assert result.returncode == 3
    (line,) = (each for each in json.loads(result.stdout)["nodes"] if each["name"] == busy.name)
    assert (line["shortfallBefore"], line["shortfallAfter"]) == (0, (3 * 512 + 64 - 1200) * MIB)


def test_diff_shows_processors_at_present_and_under_shortage(
    cli: Cli, installed: ControlPlane, node: FakeNode, tmp_path: Path
) -> None:
    for name in ("a", "b", "idle"):
        node.add(name)
    node.vms["idle"]["processors"]["offlinable"] = 0
    node.processors = {"count": 3, "usage": 10, "stall": 0}
    node.report()
    file = policies(tmp_path, processor_policy("cpus", processors={"min": 1}))
    comparison = json.loads(cli("diff", "-f", str(file), "-o", "json").stdout)
    assert comparison["policies"] == [{"kind": "ProcessorPolicy", "name": "cpus", "change": "created"}]
    a, _, idle = (vm["processors"] for vm in comparison["virtualMachines"])
    assert (a["now"], a["before"], a["after"], a["shortBefore"], a["shortAfter"]) == (4, 4, 4, 4, 1)
    assert (a["policyAfter"], a["minAfter"], a["changed"], a["reason"]) == ("cpus", 1, True, "NotUnderPressure")
    assert (idle["after"], idle["shortAfter"]) == (4, 4)
    assert not any(vm["changed"] for vm in comparison["virtualMachines"])
    (line,) = (each["processors"] for each in comparison["nodes"] if each["name"] == node.name)
    assert (line["takenAfter"], line["shortTakenBefore"], line["shortTakenAfter"]) == (0, 0, 6)
    node.processors = {"count": 3, "usage": 97, "stall": 61}
    node.report()
    text = cli("diff", "-f", str(file)).stdout
    header = next(row for row in rows(text) if "CPU-POLICY" in row)
    row = dict(zip(header, next(each for each in rows(text) if each[1:2] == ["a"]), strict=False))
    assert (row["BEFORE"], row["AFTER"], row["WHEN-SHORT"], row["MIN"]) == ("4", "1", "4→1", "-→1")
    assert installed.kubectl("get", "cpupol", "--output=name") == ""
    assert cli("diff", "-f", str(file), "--fail-on=change").returncode == 3
    installed.apply(processor_policy("cpus", processors={"min": 1}))
    assert cli("diff", "-f", str(file), "--fail-on=change").returncode == 0
    greedy = policies(tmp_path, processor_policy("cpus", processors={"min": "100%"}))
    refused = cli("diff", "-f", str(greedy), "-o", "json")
    assert refused.returncode == 3
    (line,) = (each["processors"] for each in json.loads(refused.stdout)["nodes"] if each["name"] == node.name)
    assert (line["shortfallBefore"], line["shortfallAfter"]) == (0, 9)


def test_policies_for_processors_are_checked(cli: Cli, tmp_path: Path) -> None:
    broken = cli("diff", "-f", str(policies(tmp_path, processor_policy("cpus", coolDown="soon"))))
    assert broken.returncode == 2
    assert 'The ProcessorPolicy "cpus" is invalid: spec.coolDown' in broken.stderr


def test_diff_with_prune_deletes_the_policies_that_the_files_leave_out(
    cli: Cli, busy: FakeNode, tmp_path: Path
) -> None:
    other = policies(tmp_path, memory_policy("other", selector={"namespaceSelector": {"matchLabels": {"no": "where"}}}))
    comparison = json.loads(cli("diff", "-f", str(other), "--prune", "-o", "json").stdout)
    assert {each["name"]: each["change"] for each in comparison["policies"]} == {
        "default": "deleted",
        "other": "created",
    }
    after = {vm["name"]: vm["after"] for vm in comparison["virtualMachines"]}
    assert after == {"busy": 512 * MIB, "idle": 512 * MIB, "lazy": 512 * MIB, "barred": 64 * MIB}
    assert busy.vms.keys() == after.keys()


LATE = {"ample": "55%", "tight": "52%", "scarce": "2%", "critical": "1%"}


def test_diff_shows_where_states_would_begin_under_a_node_policy(
    cli: Cli, installed: ControlPlane, busy: FakeNode, tmp_path: Path
) -> None:
    busy.labels = {"pool": "big"}
    busy.report()
    big = {"nodeSelector": {"matchLabels": {"pool": "big"}}}
    file = policies(
        tmp_path, node_policy("big", selector=big, thresholds=LATE, reserve="60%"), memory_policy("default")
    )
    result = cli("diff", "-f", str(file))
    assert "NodePolicy big created" in result.stdout, result.stderr
    header = next(row for row in rows(result.stdout) if "NODE-POLICY" in row)
    row = dict(zip(header, next(each for each in rows(result.stdout) if each[:1] == [busy.name]), strict=False))
    assert (row["NODE-POLICY"], row["STATE"], row["TIGHT-BELOW"]) == ("-→big", "Ample→Tight", "48Mi→624Mi")
    document = json.loads(cli("diff", "-f", str(file), "-o", "json").stdout)
    (node,) = (each for each in document["nodes"] if each["name"] == busy.name)
    assert (node["limits"]["reserveAfter"], node["capacity"]) == (720 * MIB, 480 * MIB)
    assert node["shortfallAfter"] > node["shortfallBefore"] == 0
    other = policies(tmp_path, node_policy("small", selector={"nodeSelector": {"matchLabels": {"pool": "small"}}}))
    assert "Nothing would change" in cli("diff", "-f", str(other)).stdout
    assert installed.kubectl("get", "nodepol", "--output=name") == ""


def test_a_node_s_policy_is_named_where_the_node_is_shown(cli: Cli, installed: ControlPlane, busy: FakeNode) -> None:
    installed.apply(node_policy("big"))
    generation = json.loads(installed.kubectl("get", "nodepol", "big", "--output=json"))["metadata"]["generation"]
    busy.limits = {"policy": "big", "policyGeneration": generation}
    busy.report()
    header, *nodes = rows(cli("top", "nodes", "-o", "wide").stdout)
    assert dict(zip(header, next(row for row in nodes if row[0] == busy.name), strict=False))["NODE-POLICY"] == "big"
    assert f"on node {busy.name}, state Ample (NodePolicy big)" in cli("explain", f"{busy.namespace}/busy").stdout


def test_status_says_how_many_nodes_a_node_policy_governs(
    cli: Cli, installed: ControlPlane, busy: FakeNode, leader: Command
) -> None:
    installed.apply(node_policy("big"))
    generation = json.loads(installed.kubectl("get", "nodepol", "big", "--output=json"))["metadata"]["generation"]
    busy.limits = {"policy": "big", "policyGeneration": generation}
    busy.report()

    def governed() -> list[str]:
        return next((row[4:6] for row in rows(cli("status").stdout) if row[:2] == ["NodePolicy", "big"]), [])

    until(lambda: governed() == ["1", "node"], tell=leader.output)


def test_an_unreachable_api_server_is_one_line(installed: ControlPlane, tmp_path: Path) -> None:
    view = json.loads(installed.kubectl("config", "view", "--raw", "--output=json"))
    view["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    (tmp_path / "kubeconfig").write_text(json.dumps(view))
    result = balloon(tmp_path / "kubeconfig", "status")
    assert (result.returncode, len(result.stderr.splitlines())) == (1, 1)
    assert "cannot be reached" in result.stderr
    result = balloon(tmp_path / "kubeconfig", "status", "--context=none")
    assert (result.returncode, len(result.stderr.splitlines())) == (1, 1)


@pytest.mark.parametrize(("kubeconfig", "complaint"), [("garbage", "cannot be read"), (None, "there is no kubeconfig")])
def test_without_access_to_a_cluster_there_is_one_line(
    kubeconfig: str | None, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "kubeconfig"
    monkeypatch.setenv("KUBECONFIG", str(path))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    if kubeconfig is not None:
        path.write_text(kubeconfig)
    result = balloon(None, "status")
    assert (result.returncode, result.stdout, len(result.stderr.splitlines())) == (1, "", 1)
    assert complaint in result.stderr


@pytest.mark.parametrize("name", ["", "a/b/c", "VM"])
def test_an_invalid_name_is_wrong_usage(cli: Cli, name: str) -> None:
    assert cli("explain", name).returncode == 2


def test_a_missing_privilege_is_named(installed: ControlPlane, namespace: str) -> None:
    installed.kubectl("create", "serviceaccount", "nobody", f"--namespace={namespace}")
    kubeconfig = installed.service_account_kubeconfig(namespace, "nobody")
    result = balloon(kubeconfig, "top", "nodes")
    assert (result.returncode, len(result.stderr.splitlines())) == (1, 1)
    assert "cannot list resource" in result.stderr


def test_diff_reads_labels_that_a_report_leaves_out(
    cli: Cli, installed: ControlPlane, busy: FakeNode, tmp_path: Path
) -> None:
    busy.add("many", labels={f"key-{number}": "x" * 63 for number in range(100)} | {"zone": "z"})
    busy.vms["many"] |= {"labels": {}, "labelsCut": True}
    busy.report()
    selector = {"virtualMachineSelector": {"matchLabels": {"zone": "z"}}}
    path = policies(tmp_path, memory_policy("zone", selector=selector, priority=9))
    shown = json.loads(cli("diff", "-f", str(path), "-o", "json").stdout)
    vms = {vm["name"]: vm for vm in shown["virtualMachines"] if vm["namespace"] == busy.namespace}
    assert vms["many"]["policyAfter"] == "zone", vms["many"]
    reader = "reader-of-reports"
    kinds = "memorypolicies.kubeballoon.io,processorpolicies.kubeballoon.io,nodepressures.kubeballoon.io,namespaces"
    installed.kubectl("create", "clusterrole", reader, "--verb=list", f"--resource={kinds}")
    installed.kubectl("create", "clusterrolebinding", reader, f"--clusterrole={reader}", f"--user={reader}")
    until(lambda: is_allowed(installed, reader, "list", "nodepressures"))
    without = balloon(installed.user_kubeconfig(reader), "diff", "-f", str(path))
    assert f"not all labels of VM {busy.namespace}/many are reported" in without.stderr


def test_what_a_guest_or_a_launcher_says_controls_no_terminal(cli: Cli, busy: FakeNode, tmp_path: Path) -> None:
    hostile = "\x1b[2J\x1b]0;owned\x07\nall is well\u202e"
    for vm in busy.vms.values():
        vm |= {"message": hostile, "responsive": False}
        vm["processors"]["message"] = hostile
    busy.report()
    path = policies(tmp_path, memory_policy("default", memory={"min": "75%"}))
    where = f"--namespace={busy.namespace}"
    for command in (
        ("top", "nodes", "-o", "wide"),
        ("top", "vms", where, "-o", "wide"),
        ("status",),
        ("explain", "busy", where),
        ("explain", "barred", where),
        ("explain", "barred", where, "-o", "yaml"),
        ("diff", "-f", str(path), "-o", "wide"),
        ("release", busy.name, "--force", "--timeout=1s"),
    ):
        done = cli(*command)
        assert all(line.isprintable() for line in (done.stdout + done.stderr).split("\n")), command
        if "barred" in command:
            assert "all is well" in done.stdout
    cli("release", busy.name, "--undo")
