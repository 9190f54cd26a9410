"""Who may write what: on the real API server, as tenants, agents, the controller and KubeVirt."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hack.testbed.chart import NAMESPACE, RELEASE, agent_kubeconfig
from hack.testbed.controlplane import ControlPlane, ControlPlaneError
from hack.testbed.lab import GuestSpec, vmi_object
from tests.support.cluster import AS_CONTROLLER, MIB, Object, get, is_allowed
from tests.support.waiting import until

pytestmark = pytest.mark.cluster

TARGET = "kubeballoon.io/memory-target"
RESERVED = [
    TARGET,
    "kubeballoon.io/memory-min",
    "kubeballoon.io/processor-target",
    "kubeballoon.io/policy",
    "kubeballoon.io/reason",
]
# Where each kind has the annotations that its VMIs get.
PLACES = {
    "vmi": "metadata",
    "vm": "spec.template.metadata",
    "vmirs": "spec.template.metadata",
    "vmpool": "spec.virtualMachineTemplate.spec.template.metadata",
}
# Metadata that the API server takes for a template's.
ODD: list[Object | None] = [
    None,
    {},
    {"creationTimestamp": None},
    {"annotations": None},
    {"annotations": {}},
    {"labels": {"a": "b"}},
]
# What KubeVirt's role kubevirt.io:edit lets a namespace's tenants do with VMs, as far as it matters here.
EDIT = ["get", "list", "watch", "create", "update", "patch", "delete"]
TENANT = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "ClusterRole",
    "metadata": {"name": "test-kubevirt-edit"},
    "rules": [
        {
            "apiGroups": ["kubevirt.io"],
            "resources": ["virtualmachines", "virtualmachineinstances", "virtualmachineinstancereplicasets"],
            "verbs": EDIT,
        },
        {"apiGroups": ["pool.kubevirt.io"], "resources": ["virtualmachinepools"], "verbs": EDIT},
    ],
}


@dataclass(frozen=True)
class User:
    """Somebody with a kubeconfig, or somebody the administrator plays."""

    plane: ControlPlane
    namespace: str
    kubeconfig: Path | None = None
    played: tuple[str, ...] = ()

    def does(self, *arguments: str, stdin: str | None = None) -> str:
        """Run kubectl."""
        command = (*arguments, *self.played, f"--namespace={self.namespace}")
        return self.plane.kubectl(*command, stdin=stdin, kubeconfig=self.kubeconfig)

    def annotates(self, kind: str, name: str, **annotations: str | None) -> None:
        """Annotate a VMI, or another kind's template of it; None takes an annotation away."""
        body: Object = {"annotations": {_full(key): value for key, value in annotations.items()}}
        for field in reversed(PLACES[kind].split(".")):
            body = {field: body}
        self.does("patch", kind, name, "--type=merge", f"--patch={json.dumps(body)}")

    def creates(self, item: Object) -> None:
        """Create an object."""
        self.does("create", "--filename=-", stdin=json.dumps(item))


def _full(key: str) -> str:
    return f"kubeballoon.io/{key.replace('_', '-')}"


def vmi(namespace: str, name: str = "vm", **annotations: str) -> Object:
    keys = {_full(key): value for key, value in annotations.items()}
    return vmi_object(GuestSpec(name=name, namespace=namespace, memory_bytes=64 * MIB), "pod", "node", annotations=keys)


def templated(kind: str, namespace: str, name: str = "vm", metadata: Any = None) -> Object:
    """A VM, a replica set or a pool, whose template of a VMI has this metadata, or none."""
    template = {"spec": {"domain": {"devices": {}}}} | ({} if metadata is None else {"metadata": metadata})
    vm = {"runStrategy": "Halted", "template": template}
    selector = {"matchLabels": {"a": "b"}}
    group, full, spec = {
        "vm": ("kubevirt.io/v1", "VirtualMachine", vm),
        "vmirs": ("kubevirt.io/v1", "VirtualMachineInstanceReplicaSet", {"selector": selector, "template": template}),
        "vmpool": (
            "pool.kubevirt.io/v1beta1",
            "VirtualMachinePool",
            {"selector": selector, "virtualMachineTemplate": {"spec": vm}},
        ),
    }[kind]
    return {"apiVersion": group, "kind": full, "metadata": {"name": name, "namespace": namespace}, "spec": spec}


def annotated(kind: str, namespace: str, **annotations: str) -> Object:
    """One of a kind, with annotations where its VMIs get theirs from."""
    if kind == "vmi":
        return vmi(namespace, **annotations)
    metadata = {"annotations": {_full(key): value for key, value in annotations.items()}}
    return templated(kind, namespace, metadata=metadata)


def refused(action: Callable[[], object]) -> str:
    """What the API server says when it refuses."""
    with pytest.raises(ControlPlaneError) as error:
        action()
    assert "Forbidden" in str(error.value) or "forbidden" in str(error.value)
    return str(error.value)


def await_right(plane: ControlPlane, namespace: str, user: str) -> None:
    """Wait until the API server heeds a role for VMs that was just bound."""
    where = {"group": "kubevirt.io", "namespace": namespace}
    until(lambda: is_allowed(plane, user, "update", "virtualmachineinstances", **where), 60)


@pytest.fixture
def tenant(heeded: ControlPlane, namespace: str) -> User:
    """Someone with KubeVirt's edit role in a namespace."""
    user = f"tenant-of-{namespace}"
    heeded.apply(TENANT)
    role = ("--clusterrole=test-kubevirt-edit", f"--user={user}", f"--namespace={namespace}")
    heeded.kubectl("create", "rolebinding", "edit", *role)
    await_right(heeded, namespace, user)
    return User(heeded, namespace, heeded.user_kubeconfig(user))


@pytest.fixture
def controller(heeded: ControlPlane, namespace: str) -> User:
    return User(heeded, namespace, played=AS_CONTROLLER)


@pytest.fixture
def admin(heeded: ControlPlane, namespace: str) -> User:
    return User(heeded, namespace)


@pytest.fixture(scope="session")
def heeded(installed: ControlPlane) -> ControlPlane:
    """The control plane once it heeds the last of its policies."""
    for item in [annotated(kind, "default", memory_target="1Gi") for kind in PLACES]:
        until(partial(refuses, installed, item), 60, partial(json.dumps, item))
    return installed


def refuses(plane: ControlPlane, item: Object) -> bool:
    """Whether the API server takes no object with a request from whoever is not the controller."""
    try:
        plane.kubectl("create", "--dry-run=server", "--filename=-", stdin=json.dumps(item))
    except ControlPlaneError as error:
        return "may be written by" in str(error)
    return False


@pytest.mark.parametrize("annotation", RESERVED)
def test_a_tenant_forges_no_request(tenant: User, annotation: str) -> None:
    tenant.creates(vmi(tenant.namespace))
    said = refused(lambda: tenant.does("annotate", "vmi", "vm", f"{annotation}=1"))
    assert f"metadata.annotations: {annotation} may be written by kubeballoon's controller only" in said
    assert "MemoryPolicy" in said
    assert "kubeballoon.io/exclude" in said


def test_a_tenant_neither_changes_nor_removes_a_request(tenant: User, controller: User) -> None:
    tenant.creates(vmi(tenant.namespace))
    controller.annotates("vmi", "vm", memory_target="32Mi", policy="default")
    refused(lambda: tenant.annotates("vmi", "vm", memory_target="64Mi"))
    said = refused(lambda: tenant.annotates("vmi", "vm", memory_target=None))
    assert f"{TARGET} may be removed by kubeballoon's controller only" in said
    refused(lambda: tenant.does("patch", "vmi", "vm", "--type=merge", '--patch={"metadata":{"annotations":null}}'))
    assert get(tenant.plane, "vmi", "vm", f"--namespace={tenant.namespace}")["metadata"]["annotations"] == {
        TARGET: "32Mi",
        "kubeballoon.io/policy": "default",
    }


def test_a_tenant_may_do_all_else_with_a_vm_that_has_a_request(tenant: User, controller: User) -> None:
    tenant.creates(vmi(tenant.namespace))
    controller.annotates("vmi", "vm", memory_target="32Mi")
    tenant.does("annotate", "vmi", "vm", "kubeballoon.io/exclude=true", "team.example/note=mine")
    tenant.does("label", "vmi", "vm", "tier=gold")
    tenant.does("annotate", "vmi", "vm", "kubeballoon.io/exclude-")
    tenant.does("delete", "vmi", "vm", "--wait=false")


@pytest.mark.parametrize(("kind", "path"), PLACES.items())
def test_what_arrives_with_a_request_is_refused(tenant: User, kind: str, path: str) -> None:
    item = annotated(kind, tenant.namespace, memory_target="1Gi")
    assert f"{path}.annotations: {TARGET} may be written" in refused(lambda: tenant.creates(item))
    tenant.creates(annotated(kind, tenant.namespace, exclude="true"))
    assert "may be written" in refused(lambda: tenant.annotates(kind, "vm", memory_min="1Gi"))
    tenant.annotates(kind, "vm", exclude=None)


@pytest.mark.parametrize("kind", ["vm", "vmirs", "vmpool"])
def test_odd_templates_are_no_obstacle(tenant: User, kind: str) -> None:
    for number, metadata in enumerate(ODD):
        tenant.creates(templated(kind, tenant.namespace, f"vm-{number}", metadata))
    tenant.does("label", kind, "--all", "a=b")


def test_kubevirt_carries_requests_along(heeded: ControlPlane, namespace: str, controller: User) -> None:
    role = ("--clusterrole=cluster-admin", "--serviceaccount=kubevirt:kubevirt-controller")
    heeded.kubectl("create", "rolebinding", "kubevirt", *role, f"--namespace={namespace}")
    account = "system:serviceaccount:kubevirt:kubevirt-controller"
    await_right(heeded, namespace, account)
    kubevirt = User(heeded, namespace, played=(f"--as={account}",))
    kubevirt.creates(vmi(namespace))
    controller.annotates("vmi", "vm", memory_target="32Mi", policy="default", reason="why")
    whole = get(heeded, "vmi", "vm", f"--namespace={namespace}")
    whole["metadata"]["annotations"]["kubevirt.io/latest-observed-api-version"] = "v1"
    whole["status"]["phase"] = "Succeeded"
    kubevirt.does("replace", "--filename=-", stdin=json.dumps(whole))
    kept = get(heeded, "vmi", "vm", f"--namespace={namespace}")["metadata"]["annotations"]
    assert kept[TARGET] == "32Mi"
    assert kept["kubevirt.io/latest-observed-api-version"] == "v1"


def test_the_controller_writes_and_withdraws(tenant: User, controller: User) -> None:
    tenant.creates(vmi(tenant.namespace))
    controller.annotates("vmi", "vm", memory_target="32Mi", memory_min="16Mi", processor_target="1", policy="p")
    controller.annotates("vmi", "vm", memory_target="48Mi")
    controller.annotates("vmi", "vm", memory_target=None, memory_min=None, processor_target=None, policy=None)


def test_an_administrator_withdraws_but_does_not_write(admin: User, controller: User) -> None:
    admin.creates(vmi(admin.namespace))
    controller.annotates("vmi", "vm", memory_target="32Mi")
    refused(lambda: admin.annotates("vmi", "vm", memory_target="48Mi"))
    admin.annotates("vmi", "vm", memory_target=None)


@pytest.fixture
def nodes(installed: ControlPlane, namespace: str) -> Iterator[tuple[str, str]]:
    names = f"a-{namespace}", f"b-{namespace}"
    for name in names:
        installed.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
    yield names
    for name in names:
        installed.kubectl("delete", "node", name, "--wait=false")
        installed.kubectl("delete", "nodepressure", name, "--ignore-not-found")


def report(plane: ControlPlane, kubeconfig: Path, node: str) -> None:
    """What an agent does to report."""
    head = {"apiVersion": "kubeballoon.io/v1alpha1", "kind": "NodePressure", "metadata": {"name": node}}
    command = ("apply", "--server-side", "--force-conflicts", "--filename=-")
    plane.kubectl(*command, stdin=json.dumps(head), kubeconfig=kubeconfig)
    memory = {"total": "1Gi", "available": "1Gi", "other": "0", "reserve": "0"}
    status = {"observedAt": "2026-01-01T00:00:00Z", "memory": memory}
    document = json.dumps({**head, "status": status})
    plane.kubectl(*command, "--subresource=status", stdin=document, kubeconfig=kubeconfig)


def test_an_agent_reports_its_own_node_only(heeded: ControlPlane, nodes: tuple[str, str]) -> None:
    mine, other = nodes
    agent = agent_kubeconfig(heeded, mine)
    neighbour = agent_kubeconfig(heeded, other)
    report(heeded, agent, mine)
    assert get(heeded, "nodepressure", mine)["status"]["memory"]["total"] == "1Gi"
    said = refused(lambda: report(heeded, agent, other))
    assert f"this one is of {other}, and the token is of {mine}" in said
    refused(lambda: report(heeded, neighbour, mine))
    document = {"apiVersion": "kubeballoon.io/v1alpha1", "kind": "NodePressure", "metadata": {"name": mine}}
    status = {"observedAt": "2026-01-01T00:00:00Z", "memory": dict.fromkeys(("total", "available", "other"), "0")}
    body = json.dumps({**document, "status": {**status, "memory": {**status["memory"], "reserve": "0"}}})  # type: ignore[dict-item]
    command = ("apply", "--server-side", "--force-conflicts", "--subresource=status", "--filename=-")
    said = refused(lambda: heeded.kubectl(*command, stdin=body, kubeconfig=neighbour))
    assert "its own node's NodePressure only" in said


def test_an_agents_token_without_a_node_reports_nothing(heeded: ControlPlane, nodes: tuple[str, str]) -> None:
    unbound = heeded.service_account_kubeconfig(NAMESPACE, f"{RELEASE}-agent")
    assert "the token is of no node" in refused(lambda: report(heeded, unbound, nodes[0]))


def test_an_agent_writes_no_request(heeded: ControlPlane, tenant: User, nodes: tuple[str, str]) -> None:
    tenant.creates(vmi(tenant.namespace))
    agent = User(heeded, tenant.namespace, agent_kubeconfig(heeded, nodes[0]))
    assert "cannot patch resource" in refused(lambda: agent.annotates("vmi", "vm", memory_target="1Mi"))


def test_a_policy_needs_the_right_to_it(tenant: User) -> None:
    policy = {
        "apiVersion": "kubeballoon.io/v1alpha1",
        "kind": "MemoryPolicy",
        "metadata": {"name": "mine"},
        "spec": {"selector": {}},
    }
    assert 'cannot create resource "memorypolicies"' in refused(lambda: tenant.creates(policy))


@pytest.mark.parametrize(
    ("role", "verb", "kind", "allowed"),
    [
        ("view", "list", "memorypolicies", True),
        ("view", "get", "nodepressures", True),
        ("view", "create", "memorypolicies", False),
        ("edit", "get", "processorpolicies", True),
        ("edit", "create", "memorypolicies", True),
        ("edit", "patch", "nodepressures", False),
        ("edit", "release", "memorypolicies", False),
        ("admin", "delete", "memorypolicies", True),
        ("admin", "create", "nodepressures", False),
    ],
)
def test_the_clusters_own_roles_include_our_kinds(
    heeded: ControlPlane,
    role: str,
    verb: str,
    kind: str,
    allowed: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    user = f"{role}-everywhere"
    binding = ("create", "clusterrolebinding", user, f"--clusterrole={role}", f"--user={user}")
    with suppress(ControlPlaneError):  # there already
        heeded.kubectl(*binding)
    until(lambda: is_allowed(heeded, user, verb, kind) == allowed, 60)
