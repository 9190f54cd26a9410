"""``release``, with a real controller on a real API server, where the tests write the agents' reports."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from subprocess import CompletedProcess

import pytest

from hack.testbed.controlplane import ControlPlane
from tests.support.cli import balloon
from tests.support.cluster import (
    AS_CONTROLLER,
    MIB,
    FakeNode,
    condition,
    controller_annotations,
    get,
    is_allowed,
    memory_policy,
)
from tests.support.waiting import throughout, until

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("leader")]

Cli = Callable[..., CompletedProcess[str]]


@pytest.fixture
def squeezed(installed: ControlPlane, node: FakeNode) -> FakeNode:
    """A node whose three VMs hold less than their memory."""
    for name in ("a", "b", "c"):
        node.add(name)
    node.report()
    installed.apply(memory_policy("default"))
    until(lambda: len(node.targets()) == 3)
    node.report(follow=True)
    return node


@pytest.fixture
def background() -> Iterator[ThreadPoolExecutor]:
    """Where a command runs while the test plays the agent."""
    with ThreadPoolExecutor(1) as executor:
        yield executor


def test_everything_is_released_and_stays_so_until_undone(
    cli: Cli, installed: ControlPlane, squeezed: FakeNode, background: ThreadPoolExecutor
) -> None:
    released = background.submit(cli, "release", "--all", "--force", "--wait", "--timeout=60s")
    until(lambda: squeezed.targets() == {})
    assert not released.done(), "the guests do not have their memory back yet"
    squeezed.report(follow=True)
    result = released.result()
    assert (result.returncode, result.stdout.splitlines()[0].split(":")[0]) == (0, "all VMs"), result.stderr
    assert "is overcommitted by" in result.stderr
    until(lambda: condition(installed, "default", "Ready").get("reason") == "Released")
    status = get(installed, "mempol", "default")["status"]
    assert status["excluded"] == [{"reason": "Released", "count": 3}]
    squeezed.vms["a"]["need"] = str(500 * MIB)
    squeezed.report(follow=True)
    throughout(lambda: squeezed.targets() == {}, 1)
    undone = cli("release", "--all", "--undo")
    assert undone.stdout == "all VMs: governed again (MemoryPolicy default)\n"
    until(lambda: len(squeezed.targets()) == 3)
    assert cli("release", "--all", "--undo").stdout == "all VMs: not released\n"


@pytest.mark.parametrize("everything", [True, False], ids=["all", "a node"])
def test_nothing_is_released_where_a_node_would_run_short(
    cli: Cli,
    installed: ControlPlane,
    squeezed: FakeNode,
    everything: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    before = squeezed.targets()
    target, name = ("--all", "all VMs") if everything else (squeezed.name, f"node {squeezed.name}")
    for options in ([], ["--dry-run"]):
        result = cli("release", target, *options)
        assert result.returncode == 3
        (total,) = result.stdout.splitlines()
        assert total.startswith(f"{name}: 3 VMs on 1 node get ")
        assert total.endswith("and 0 processors back; 1 of the nodes would run short, by 336 MiB together")
        assert f"node {squeezed.name} is overcommitted by 336 MiB" in result.stderr
        assert "nothing is released, because a node would run short; --force" in result.stderr
    assert squeezed.targets() == before
    assert "annotations" not in get(installed, "mempol", "default")["metadata"]
    assert "annotations" not in get(installed, "nodepressure", squeezed.name)["metadata"]


def test_a_dry_run_says_what_would_be_released_and_releases_nothing(
    cli: Cli, installed: ControlPlane, squeezed: FakeNode
) -> None:
    before = squeezed.targets()
    reclaimed = 3 * 512 * MIB - sum(before.values())
    for arguments, changed in (
        (("--all", "--force"), "MemoryPolicy default"),
        ((squeezed.name, "--force"), f"NodePressure {squeezed.name}"),
        (("vm/a", f"--namespace={squeezed.namespace}"), f"VM {squeezed.namespace}/a"),
    ):
        result = cli("release", *arguments, "--dry-run", "-o", "json")
        assert result.returncode == 0, result.stderr
        shown = json.loads(result.stdout)
        assert (shown["changed"], shown["dryRun"], shown["refused"]) == ([changed], True, False)
        vms = 1 if "vm/a" in arguments else 3
        assert (shown["forecast"]["virtualMachines"], shown["forecast"]["nodes"]) == (vms, 1)
        assert shown["forecast"]["memory"] == (512 * MIB - before["a"] if vms == 1 else reclaimed)
    assert squeezed.targets() == before
    assert "annotations" not in get(installed, "mempol", "default")["metadata"]
    vmi = get(installed, "vmi", "a", f"--namespace={squeezed.namespace}")["metadata"]["annotations"]
    assert "kubeballoon.io/exclude" not in vmi


def test_a_node_is_released(cli: Cli, squeezed: FakeNode, background: ThreadPoolExecutor) -> None:
    released = background.submit(cli, "release", f"node/{squeezed.name}", "--force", "-o", "json")
    until(lambda: squeezed.targets() == {})
    squeezed.report(follow=True)
    ended = released.result()
    assert ended.returncode == 0, ended.stderr
    result = json.loads(ended.stdout)
    assert result["changed"] == [f"NodePressure {squeezed.name}"]
    assert result["held"] == []
    assert cli("release", squeezed.name, "--undo").returncode == 0
    until(lambda: len(squeezed.targets()) == 3)


def test_a_vm_is_released(
    cli: Cli, installed: ControlPlane, squeezed: FakeNode, background: ThreadPoolExecutor
) -> None:
    released = background.submit(cli, "release", "vm/a", f"--namespace={squeezed.namespace}")
    vmi = ("vmi", "a", f"--namespace={squeezed.namespace}")
    until(lambda: get(installed, *vmi)["metadata"].get("annotations", {}).get("kubeballoon.io/exclude") == "true")
    squeezed.vms["a"]["ownerExcluded"] = True
    squeezed.report()
    until(lambda: controller_annotations(installed, squeezed.namespace, "a") == {})
    squeezed.report(follow=True)
    result = released.result()
    assert result.returncode == 0, result.stderr
    assert {"b", "c"} == squeezed.targets().keys()
    assert cli("release", f"{squeezed.namespace}/a", "--undo").returncode == 0
    assert "kubeballoon.io/exclude" not in get(installed, *vmi)["metadata"].get("annotations", {})


def test_what_is_not_back_in_time_is_named(cli: Cli, installed: ControlPlane, squeezed: FakeNode) -> None:
    result = cli("release", squeezed.name, "--force", "--timeout=2s")
    assert result.returncode == 4
    namespace = squeezed.namespace
    assert [line.split(":")[0] for line in result.stderr.splitlines()[-3:]] == [
        f"{namespace}/{name} on {squeezed.name}" for name in "abc"
    ]
    assert "the release holds" in result.stderr
    pressure = get(installed, "nodepressure", squeezed.name)
    assert pressure["metadata"]["annotations"]["kubeballoon.io/release"] == "true"


@pytest.mark.parametrize(
    ("target", "complaint"),
    [
        ("node/none", "no agent reports a node none"),
        ("vm/none", "no VM {namespace}/none runs on a node with an agent"),
        ("vm/aa", "no VM {namespace}/aa runs on a node with an agent; did you mean {namespace}/a?"),
    ],
)
def test_nothing_by_that_name_is_one_line(cli: Cli, node: FakeNode, target: str, complaint: str) -> None:
    node.add("a")
    node.report()
    result = cli("release", target, f"--namespace={node.namespace}")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == f"kubectl balloon: {complaint.format(namespace=node.namespace)}\n"


def test_a_vm_whose_policy_denies_exclusion_is_not_released(cli: Cli, installed: ControlPlane, node: FakeNode) -> None:
    node.add("a")
    node.report()
    installed.apply(memory_policy("strict", ownerExclusion="Deny"))
    result = cli("release", f"{node.namespace}/a")
    assert result.returncode == 1
    assert "the policy strict governs" in result.stderr
    assert f"release the VM's node {node.name}" in result.stderr


def test_releasing_needs_no_controller(cli: Cli, installed: ControlPlane, node: FakeNode) -> None:
    # Nothing is decided for a node whose agent is silent, as if no controller were there.
    node.add("a")
    where = f"--namespace={node.namespace}"
    installed.kubectl("annotate", "vmi", "a", where, "kubeballoon.io/memory-target=256Mi", *AS_CONTROLLER)
    node.report(age=600)
    result = cli("release", node.name, "--without-controller", "--no-wait")
    assert result.returncode == 0, result.stderr
    assert node.targets() == {}


@pytest.mark.parametrize("arguments", [("release",), ("release", "a", "--all"), ("release", "a", "--timeout=soon")])
def test_wrong_usage_ends_with_2(cli: Cli, arguments: tuple[str, ...]) -> None:
    assert cli(*arguments).returncode == 2


def test_an_account_with_the_least_privileges_releases_all(
    installed: ControlPlane, squeezed: FakeNode, background: ThreadPoolExecutor
) -> None:
    """What an uninstall hook runs with."""
    name, namespace = "releaser", squeezed.namespace
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": f"{namespace}-{name}"},
        "rules": [
            {
                "apiGroups": ["kubeballoon.io"],
                "resources": ["memorypolicies", "processorpolicies"],
                "verbs": ["list", "patch"],
            },
            {"apiGroups": ["kubeballoon.io"], "resources": ["nodepressures"], "verbs": ["list"]},
        ],
    }
    installed.apply(role)
    installed.kubectl("create", "serviceaccount", name, f"--namespace={namespace}")
    subject = f"--serviceaccount={namespace}:{name}"
    installed.kubectl(
        "create", "clusterrolebinding", f"{namespace}-{name}", f"--clusterrole={namespace}-{name}", subject
    )
    until(lambda: is_allowed(installed, f"system:serviceaccount:{namespace}:{name}", "patch", "memorypolicies"), 60)
    kubeconfig = installed.service_account_kubeconfig(namespace, name)
    released = background.submit(balloon, kubeconfig, "release", "--all", "--force")
    until(lambda: squeezed.targets() == {})
    squeezed.report(follow=True)
    assert released.result().returncode == 0, released.result().stderr
    refused = balloon(kubeconfig, "release", f"node/{squeezed.name}", "--force")
    assert refused.returncode == 1
    assert "cannot patch resource" in refused.stderr
    installed.kubectl("delete", "clusterrolebinding,clusterrole", f"{namespace}-{name}")
