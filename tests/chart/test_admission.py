"""Admission on the real API server: what tenants, agents, the controller, administrators and KubeVirt may write."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hack.testbed.chart import NAMESPACE, RELEASE, agent_kubeconfig
from hack.testbed.controlplane import ControlPlane, ControlPlaneError
from hack.testbed.lab import GuestSpec, vmi_object
from kubeballoon.cluster import paths
from tests.support.cluster import AS_CONTROLLER, MIB, Object, get, is_allowed, migration_rights, set_taints
from tests.support.thieves import THEFTS, Thief, refused
from tests.support.waiting import until

pytestmark = pytest.mark.cluster

TARGET = "kubeballoon.io/memory-target"
REQUEST_ANNOTATIONS = [
    TARGET,
    "kubeballoon.io/memory-min",
    "kubeballoon.io/processor-target",
    "kubeballoon.io/policy",
    "kubeballoon.io/reason",
]
# The path, in each kind, of the metadata with the annotations that its VMIs get.
PATHS = {
    "vmi": "metadata",
    "vm": "spec.template.metadata",
    "vmirs": "spec.template.metadata",
    "vmpool": "spec.virtualMachineTemplate.spec.template.metadata",
}
# Unusual metadata that the API server accepts in a template.
UNUSUAL_METADATA: list[Object | None] = [
    None,
    {},
    {"creationTimestamp": None},
    {"annotations": None},
    {"annotations": {}},
    {"labels": {"a": "b"}},
]
# The rights on VMs that KubeVirt's role kubevirt.io:edit gives to the tenants of a namespace.
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
    """Somebody with a kubeconfig, or somebody whom the administrator impersonates by options of kubectl."""

    plane: ControlPlane
    namespace: str
    kubeconfig: Path | None = None
    impersonation: tuple[str, ...] = ()

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Run kubectl as this user in the namespace, and return what it prints."""
        command = (*arguments, *self.impersonation, f"--namespace={self.namespace}")
        return self.plane.kubectl(*command, stdin=stdin, kubeconfig=self.kubeconfig)

    def annotate(self, kind: str, name: str, **annotations: str | None) -> None:
        """Annotate a VMI, or the template of VMIs in another kind; None removes an annotation."""
        body: Object = {"annotations": {_full(key): value for key, value in annotations.items()}}
        for field in reversed(PATHS[kind].split(".")):
            body = {field: body}
        self.kubectl("patch", kind, name, "--type=merge", f"--patch={json.dumps(body)}")

    def create(self, item: Object) -> None:
        """Create an object."""
        self.kubectl("create", "--filename=-", stdin=json.dumps(item))


def _full(key: str) -> str:
    return f"kubeballoon.io/{key.replace('_', '-')}"


def vmi(namespace: str, name: str = "vm", **annotations: str) -> Object:
    keys = {_full(key): value for key, value in annotations.items()}
    return vmi_object(GuestSpec(name=name, namespace=namespace, memory_bytes=64 * MIB), "pod", "node", annotations=keys)


def templated(kind: str, namespace: str, name: str = "vm", metadata: Any = None) -> Object:
    """Return a VM, a replica set or a pool whose template has this metadata, or none."""
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
    """Return an object of a kind with annotations for its VMIs."""
    if kind == "vmi":
        return vmi(namespace, **annotations)
    metadata = {"annotations": {_full(key): value for key, value in annotations.items()}}
    return templated(kind, namespace, metadata=metadata)


def await_right(plane: ControlPlane, namespace: str, user: str) -> None:
    """Wait until a role for VMs that was just bound takes effect."""
    where = {"group": "kubevirt.io", "namespace": namespace}
    until(lambda: is_allowed(plane, user, "update", "virtualmachineinstances", **where), 60)


@pytest.fixture
def tenant(enforcing: ControlPlane, namespace: str) -> User:
    """A user with KubeVirt's edit role in a namespace."""
    user = f"tenant-of-{namespace}"
    enforcing.apply(TENANT)
    role = ("--clusterrole=test-kubevirt-edit", f"--user={user}", f"--namespace={namespace}")
    enforcing.kubectl("create", "rolebinding", "edit", *role)
    await_right(enforcing, namespace, user)
    return User(enforcing, namespace, enforcing.user_kubeconfig(user))


@pytest.fixture
def controller(enforcing: ControlPlane, namespace: str) -> User:
    return User(enforcing, namespace, impersonation=AS_CONTROLLER)


@pytest.fixture
def admin(enforcing: ControlPlane, namespace: str) -> User:
    return User(enforcing, namespace)


@pytest.fixture(scope="session")
def enforcing(installed: ControlPlane) -> ControlPlane:
    """The control plane, once all admission policies have taken effect."""
    for item in [annotated(kind, "default", memory_target="1Gi") for kind in PATHS]:
        until(partial(refuses, installed, item), 60, partial(json.dumps, item))
    return installed


def refuses(plane: ControlPlane, item: Object) -> bool:
    """Whether the API server refuses an object with a request from anybody but the controller."""
    try:
        plane.kubectl("create", "--dry-run=server", "--filename=-", stdin=json.dumps(item))
    except ControlPlaneError as error:
        return "may be written by" in str(error)
    return False


@pytest.mark.parametrize("annotation", REQUEST_ANNOTATIONS)
def test_a_tenant_forges_no_request(tenant: User, annotation: str) -> None:
    tenant.create(vmi(tenant.namespace))
    message = refused(lambda: tenant.kubectl("annotate", "vmi", "vm", f"{annotation}=1"))
    assert f"metadata.annotations: {annotation} may be written by kubeballoon's controller only" in message
    assert "MemoryPolicy" in message
    assert "kubeballoon.io/exclude" in message


def test_a_tenant_neither_changes_nor_removes_a_request(tenant: User, controller: User) -> None:
    tenant.create(vmi(tenant.namespace))
    controller.annotate("vmi", "vm", memory_target="32Mi", policy="default")
    refused(lambda: tenant.annotate("vmi", "vm", memory_target="64Mi"))
    message = refused(lambda: tenant.annotate("vmi", "vm", memory_target=None))
    assert f"{TARGET} may be removed by kubeballoon's controller only" in message
    refused(lambda: tenant.kubectl("patch", "vmi", "vm", "--type=merge", '--patch={"metadata":{"annotations":null}}'))
    assert get(tenant.plane, "vmi", "vm", f"--namespace={tenant.namespace}")["metadata"]["annotations"] == {
        TARGET: "32Mi",
        "kubeballoon.io/policy": "default",
    }


def test_a_tenant_may_do_all_else_with_a_vm_that_has_a_request(tenant: User, controller: User) -> None:
    tenant.create(vmi(tenant.namespace))
    controller.annotate("vmi", "vm", memory_target="32Mi")
    tenant.kubectl("annotate", "vmi", "vm", "kubeballoon.io/exclude=true", "team.example/note=mine")
    tenant.kubectl("label", "vmi", "vm", "tier=gold")
    tenant.kubectl("annotate", "vmi", "vm", "kubeballoon.io/exclude-")
    tenant.kubectl("delete", "vmi", "vm", "--wait=false")


@pytest.mark.parametrize(("kind", "path"), PATHS.items())
def test_what_arrives_with_a_request_is_refused(tenant: User, kind: str, path: str) -> None:
    item = annotated(kind, tenant.namespace, memory_target="1Gi")
    assert f"{path}.annotations: {TARGET} may be written" in refused(lambda: tenant.create(item))
    tenant.create(annotated(kind, tenant.namespace, exclude="true"))
    assert "may be written" in refused(lambda: tenant.annotate(kind, "vm", memory_min="1Gi"))
    tenant.annotate(kind, "vm", exclude=None)


@pytest.mark.parametrize("kind", ["vm", "vmirs", "vmpool"])
def test_unusual_templates_are_accepted(tenant: User, kind: str) -> None:
    for number, metadata in enumerate(UNUSUAL_METADATA):
        tenant.create(templated(kind, tenant.namespace, f"vm-{number}", metadata))
    tenant.kubectl("label", kind, "--all", "a=b")


def test_kubevirt_carries_requests_along(enforcing: ControlPlane, namespace: str, controller: User) -> None:
    role = ("--clusterrole=cluster-admin", "--serviceaccount=kubevirt:kubevirt-controller")
    enforcing.kubectl("create", "rolebinding", "kubevirt", *role, f"--namespace={namespace}")
    account = "system:serviceaccount:kubevirt:kubevirt-controller"
    await_right(enforcing, namespace, account)
    kubevirt = User(enforcing, namespace, impersonation=(f"--as={account}",))
    kubevirt.create(vmi(namespace))
    controller.annotate("vmi", "vm", memory_target="32Mi", policy="default", reason="why")
    whole = get(enforcing, "vmi", "vm", f"--namespace={namespace}")
    whole["metadata"]["annotations"]["kubevirt.io/latest-observed-api-version"] = "v1"
    whole["status"]["phase"] = "Succeeded"
    kubevirt.kubectl("replace", "--filename=-", stdin=json.dumps(whole))
    kept = get(enforcing, "vmi", "vm", f"--namespace={namespace}")["metadata"]["annotations"]
    assert kept[TARGET] == "32Mi"
    assert kept["kubevirt.io/latest-observed-api-version"] == "v1"


def test_the_controller_writes_and_withdraws(tenant: User, controller: User) -> None:
    tenant.create(vmi(tenant.namespace))
    controller.annotate("vmi", "vm", memory_target="32Mi", memory_min="16Mi", processor_target="1", policy="p")
    controller.annotate("vmi", "vm", memory_target="48Mi")
    controller.annotate("vmi", "vm", memory_target=None, memory_min=None, processor_target=None, policy=None)


def test_an_administrator_withdraws_but_does_not_write(admin: User, controller: User) -> None:
    admin.create(vmi(admin.namespace))
    controller.annotate("vmi", "vm", memory_target="32Mi")
    refused(lambda: admin.annotate("vmi", "vm", memory_target="48Mi"))
    admin.annotate("vmi", "vm", memory_target=None)


@pytest.fixture(params=["controller", "uninstall"])
def thief(request: pytest.FixtureRequest, enforcing: ControlPlane) -> Thief:
    """Somebody who stole the token of the controller, or of the uninstaller while it runs."""
    return Thief.of(enforcing, request.param)


@pytest.mark.parametrize("theft", THEFTS)
def test_a_stolen_token_changes_nothing_of_a_vm_but_requests(tenant: User, thief: Thief, theft: str) -> None:
    tenant.create(vmi(tenant.namespace))
    tenant.annotate("vmi", "vm", exclude="false")
    before = get(tenant.plane, "vmi", "vm", f"--namespace={tenant.namespace}")
    message = refused(lambda: thief.patch(paths.instance(tenant.namespace, "vm"), THEFTS[theft]))
    assert "may change nothing of a VirtualMachineInstance but the annotations of its requests" in message
    assert get(tenant.plane, "vmi", "vm", f"--namespace={tenant.namespace}") == before


def test_a_stolen_token_reads_no_vm_without_a_trace_on_it(tenant: User, thief: Thief) -> None:
    tenant.create(vmi(tenant.namespace))
    vm = paths.instance(tenant.namespace, "vm")
    removal: Object = {"metadata": {"annotations": {TARGET: None}}}
    for nothing in ({}, removal):
        assert "the patch changes nothing" in refused(partial(thief.patch, vm, nothing))
    User(tenant.plane, tenant.namespace, impersonation=AS_CONTROLLER).annotate("vmi", "vm", memory_target="1Gi")
    assert "as a dry run" in refused(lambda: thief.patch(vm, removal, "?dryRun=All"))
    assert TARGET not in thief.patch(vm, removal)["metadata"].get("annotations", {})


def test_a_stolen_controllers_token_changes_nobody_elses_events(enforcing: ControlPlane, namespace: str) -> None:
    event = {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": "e", "namespace": namespace},
        "eventTime": "2026-01-01T00:00:00.000000Z",
        "reportingController": "kubelet",
        "reportingInstance": "node",
        "regarding": {"apiVersion": "v1", "kind": "Pod", "name": "p", "namespace": namespace},
        "type": "Normal",
        "reason": "Started",
        "action": "Start",
    }
    thief = Thief.of(enforcing, "controller")
    as_controller = enforcing.service_account_kubeconfig(NAMESPACE, f"{RELEASE}-controller")
    assert "its own events only" in refused(lambda: User(enforcing, namespace, as_controller).create(event))
    User(enforcing, namespace).create(event)
    series = {"series": {"count": 2, "lastObservedTime": "2026-01-01T00:00:01.000000Z"}}
    assert "its own events only" in refused(lambda: thief.patch(f"{paths.events(namespace)}/e", series))


@pytest.fixture
def nodes(installed: ControlPlane, namespace: str) -> Iterator[tuple[str, str]]:
    names = f"a-{namespace}", f"b-{namespace}"
    for name in names:
        installed.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
    yield names
    for name in names:
        installed.kubectl("delete", "node", name, "--wait=false")
        installed.kubectl("delete", "nodepressure", name, "--ignore-not-found")
        installed.kubectl("delete", "lease", f"agent.{name}", f"--namespace={NAMESPACE}", "--ignore-not-found")


def report(plane: ControlPlane, kubeconfig: Path, node: str) -> None:
    """Write a NodePressure and its status, as an agent does."""
    head = {"apiVersion": "kubeballoon.io/v1alpha1", "kind": "NodePressure", "metadata": {"name": node}}
    command = ("apply", "--server-side", "--force-conflicts", "--filename=-")
    plane.kubectl(*command, stdin=json.dumps(head), kubeconfig=kubeconfig)
    memory = {"total": "1Gi", "available": "1Gi", "other": "0", "reserve": "0"}
    status = {"observedAt": "2026-01-01T00:00:00Z", "memory": memory}
    document = json.dumps({**head, "status": status})
    plane.kubectl(*command, "--subresource=status", stdin=document, kubeconfig=kubeconfig)


def test_an_agent_reports_its_own_node_only(enforcing: ControlPlane, nodes: tuple[str, str]) -> None:
    mine, other = nodes
    agent = agent_kubeconfig(enforcing, mine)
    neighbour = agent_kubeconfig(enforcing, other)
    report(enforcing, agent, mine)
    assert get(enforcing, "nodepressure", mine)["status"]["memory"]["total"] == "1Gi"
    message = refused(lambda: report(enforcing, agent, other))
    assert f"this one is of {other}, and the token is of {mine}" in message
    refused(lambda: report(enforcing, neighbour, mine))
    document = {"apiVersion": "kubeballoon.io/v1alpha1", "kind": "NodePressure", "metadata": {"name": mine}}
    status = {"observedAt": "2026-01-01T00:00:00Z", "memory": dict.fromkeys(("total", "available", "other"), "0")}
    body = json.dumps({**document, "status": {**status, "memory": {**status["memory"], "reserve": "0"}}})  # type: ignore[dict-item]
    command = ("apply", "--server-side", "--force-conflicts", "--subresource=status", "--filename=-")
    message = refused(lambda: enforcing.kubectl(*command, stdin=body, kubeconfig=neighbour))
    assert "its own node's NodePressure only" in message


@pytest.mark.parametrize(
    "metadata",
    [
        {"finalizers": ["example.com/stays"]},
        {"annotations": {"kubeballoon.io/release": "true"}},
        {"labels": {"a": "b"}},
        {"ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "n", "uid": "u"}]},
    ],
    ids=lambda each: next(iter(each)),
)
def test_an_agent_writes_no_metadata_of_its_report(
    enforcing: ControlPlane, nodes: tuple[str, str], metadata: Object
) -> None:
    agent = User(enforcing, NAMESPACE, agent_kubeconfig(enforcing, nodes[0]))
    head = {"apiVersion": "kubeballoon.io/v1alpha1", "kind": "NodePressure"}
    uid = get(enforcing, "node", nodes[0])["metadata"]["uid"]
    owned = {"ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": nodes[0], "uid": uid}]}
    forged = {**head, "metadata": {"name": nodes[0], **owned, **metadata}}
    assert "writes no other metadata" in refused(lambda: agent.create(forged))
    agent.create({**head, "metadata": {"name": nodes[0], **owned}})
    enforcing.kubectl("annotate", "nodepressure", nodes[0], "kubeballoon.io/release=true")
    report(enforcing, agent_kubeconfig(enforcing, nodes[0]), nodes[0])


def test_an_agents_token_without_a_node_reports_nothing(enforcing: ControlPlane, nodes: tuple[str, str]) -> None:
    unbound = enforcing.service_account_kubeconfig(NAMESPACE, f"{RELEASE}-agent")
    assert "the token is of no node" in refused(lambda: report(enforcing, unbound, nodes[0]))


OURS = {"key": "kubeballoon.io/memory-pressure", "effect": "PreferNoSchedule"}
OTHERS = {"key": "example.com/own", "effect": "NoSchedule"}


@pytest.fixture
def tainting(enforcing: ControlPlane, nodes: tuple[str, str]) -> Iterator[str]:
    """A Node with a taint of somebody else, and the right of each part of kubeballoon to patch Nodes."""
    accounts = [f"{RELEASE}-{part}" for part in ("controller", "uninstall", "agent")]
    head = {"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": "test-patch-nodes"}}
    rules = [{"apiGroups": [""], "resources": ["nodes", "nodes/status"], "verbs": ["patch"]}]
    enforcing.apply({**head, "kind": "ClusterRole", "rules": rules})
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "test-patch-nodes"}
    subjects = [{"kind": "ServiceAccount", "name": name, "namespace": NAMESPACE} for name in accounts]
    enforcing.apply({**head, "kind": "ClusterRoleBinding", "roleRef": role, "subjects": subjects})
    for name in accounts:
        until(partial(is_allowed, enforcing, f"system:serviceaccount:{NAMESPACE}:{name}", "patch", "nodes", group=""))
    set_taints(enforcing, nodes[0], OTHERS)
    yield nodes[0]
    enforcing.kubectl("delete", "clusterrolebinding,clusterrole", "test-patch-nodes")


NODE_THEFTS: dict[str, Object] = {
    "cordon": {"spec": {"unschedulable": True}},
    "labels": {"metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}}},
    "annotations": {"metadata": {"annotations": {"a": "b"}}},
    "finalizers": {"metadata": {"finalizers": ["example.com/never"]}},
    "others' taints": {"spec": {"taints": [OURS]}},
    "a taint of another key": {"spec": {"taints": [OTHERS, {"key": "example.com/new", "effect": "NoSchedule"}]}},
    "another effect of others": {"spec": {"taints": [{**OTHERS, "effect": "NoExecute"}, OURS]}},
}
"""Merge patches by which a thief would use the right to taint Nodes."""


@pytest.mark.parametrize("theft", NODE_THEFTS)
def test_a_stolen_token_changes_nothing_of_a_node_but_our_taint(thief: Thief, tainting: str, theft: str) -> None:
    message = refused(lambda: thief.patch(paths.node(tainting), NODE_THEFTS[theft]))
    assert "may change nothing of a Node but its taint kubeballoon.io/memory-pressure" in message


def test_a_stolen_token_evicts_no_pod_and_writes_no_status(thief: Thief, tainting: str) -> None:
    evicting = {"spec": {"taints": [OTHERS, {**OURS, "effect": "NoExecute"}]}}
    assert "may evict no pod" in refused(lambda: thief.patch(paths.node(tainting), evicting))
    status = {"status": {"phase": "Terminated"}}
    assert "may change nothing of a Node" in refused(lambda: thief.patch(f"{paths.node(tainting)}/status", status))


def test_our_taint_is_written_and_removed(thief: Thief, tainting: str) -> None:
    for taints in ([OTHERS, OURS], [OTHERS, {**OURS, "effect": "NoSchedule"}], [OTHERS]):
        assert thief.patch(paths.node(tainting), {"spec": {"taints": taints}})["spec"]["taints"] == taints


def test_an_agent_only_removes_our_taint_and_only_of_its_own_node(
    enforcing: ControlPlane, nodes: tuple[str, str], tainting: str
) -> None:
    mine, other = (Thief(json.loads(agent_kubeconfig(enforcing, name).read_text())) for name in nodes)
    with_ours, without = ({"spec": {"taints": taints}} for taints in ([OTHERS, OURS], [OTHERS]))
    assert "may only remove the taint of its own node" in refused(lambda: mine.patch(paths.node(tainting), with_ours))
    enforcing.kubectl("taint", "node", tainting, "kubeballoon.io/memory-pressure:NoSchedule")
    assert "may only remove the taint of its own node" in refused(lambda: other.patch(paths.node(tainting), without))
    assert "may change nothing of a Node" in refused(lambda: mine.patch(paths.node(tainting), {"spec": {"taints": []}}))
    assert mine.patch(paths.node(tainting), without)["spec"]["taints"] == [OTHERS]


@pytest.fixture
def migrating(enforcing: ControlPlane, namespace: str) -> Iterator[User]:
    """Whoever has the controller's token, with the rights of `migrations.enabled` and more."""
    with migration_rights(enforcing, namespace) as kubeconfig:
        yield User(enforcing, namespace, kubeconfig)


def vm_migration(spec: Object | None = None, **metadata: Any) -> Object:
    """A migration as the controller makes it and KubeVirt's webhook completes it, but for what is given."""
    annotations = {"kubeballoon.io/target-node": "b", "kubeballoon.io/reason": "why"}
    completed = {"labels": {"kubevirt.io/vmi-name": "vm"}, "finalizers": ["kubevirt.io/migrationJobFinalize"]}
    return {
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachineInstanceMigration",
        "metadata": {"name": "m", "annotations": annotations, **completed, **metadata},
        "spec": {"vmiName": "vm", "addedNodeSelector": {"kubernetes.io/hostname": "b"}, **(spec or {})},
    }


MIGRATION_THEFTS: dict[str, Object] = {
    "another cluster": vm_migration({"sendTo": {"connectURL": "thief:9185", "migrationID": "x"}}),
    "from another cluster": vm_migration({"receive": {"migrationID": "x"}}),
    "priority": vm_migration({"priority": "system-critical"}),
    "anywhere": vm_migration({"addedNodeSelector": {}}),
    "another selector": vm_migration({"addedNodeSelector": {"kubernetes.io/arch": "amd64"}}),
    "unmarked": vm_migration(annotations={}),
    "finalizers": vm_migration(finalizers=["example.com/never"]),
    "labels": vm_migration(labels={"a": "b"}),
    "annotations": vm_migration(annotations={"kubeballoon.io/target-node": "b", "a": "b"}),
}


@pytest.mark.parametrize("theft", MIGRATION_THEFTS)
def test_a_stolen_controllers_token_migrates_vms_within_the_cluster_only(migrating: User, theft: str) -> None:
    message = refused(lambda: migrating.create(MIGRATION_THEFTS[theft]))
    assert "kubeballoon may only create migrations" in message


def test_nobody_else_says_that_a_migration_is_kubeballoon_s(admin: User) -> None:
    message = refused(lambda: admin.create(vm_migration()))
    assert "kubeballoon.io/target-node" in message
    assert "may be written by kubeballoon's controller only" in message
    admin.create(vm_migration({"priority": "user-triggered"}, annotations={"a": "b"}, finalizers=[]))


def test_the_controller_makes_a_migration_and_cancels_it_but_may_not_change_it(migrating: User, admin: User) -> None:
    said = {**vm_migration()["metadata"]["annotations"], "kubeballoon.io/memory-target": "3Gi"}
    migrating.create(vm_migration(annotations=said))
    patch = json.dumps({"metadata": {"labels": {"a": "b"}}})
    change = "patch", "vmim", "m", "--type=merge", f"--patch={patch}"
    assert "kubeballoon may only create migrations" in refused(partial(migrating.kubectl, *change))
    migrating.kubectl("delete", "vmim", "m", "--wait=false")
    assert "deletionTimestamp" in json.loads(admin.kubectl("get", "vmim", "m", "--output=json"))["metadata"]
    assert "kubeballoon may only create migrations" in refused(partial(migrating.kubectl, *change))
    admin.kubectl("patch", "vmim", "m", "--type=merge", '--patch={"metadata":{"finalizers":null}}')


def test_the_controller_cancels_nobody_else_s_migration(migrating: User, admin: User) -> None:
    admin.create(vm_migration(annotations={"a": "b"}, finalizers=[]))
    assert "and delete those that it made" in refused(lambda: migrating.kubectl("delete", "vmim", "m"))
    admin.kubectl("delete", "vmim", "m")


def agents_lease(name: str, **metadata: Any) -> Object:
    named = {"name": name, "namespace": NAMESPACE, **metadata}
    spec = {"holderIdentity": name.removeprefix("agent.")}
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": named, "spec": spec}


def test_an_agent_writes_its_own_lease_only(enforcing: ControlPlane, nodes: tuple[str, str]) -> None:
    mine, other = nodes
    agent = User(enforcing, NAMESPACE, agent_kubeconfig(enforcing, mine))
    agent.create(agents_lease(f"agent.{mine}"))
    for name in (f"agent.{other}", "kubeballoon-controller", mine):
        message = refused(partial(agent.create, agents_lease(name)))
        assert f"this one is {name}, and the token is of {mine}" in message
    enforcing.kubectl("create", "--filename=-", stdin=json.dumps(agents_lease(f"agent.{other}")))
    renewed = json.dumps({**get(enforcing, "lease", f"agent.{other}", f"--namespace={NAMESPACE}"), "spec": {}})
    assert "its own Lease only" in refused(lambda: agent.kubectl("replace", "--filename=-", stdin=renewed))
    assert "cannot delete" in refused(lambda: agent.kubectl("delete", "lease", f"agent.{mine}"))
    elsewhere = User(enforcing, "default", agent.kubeconfig)
    assert "cannot create" in refused(lambda: elsewhere.create(agents_lease("x", namespace="default")))


@pytest.mark.parametrize(
    "metadata",
    [
        {"finalizers": ["example.com/stays"]},
        {"annotations": {"a": "b" * 1000}},
        {"ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "u"}]},
        {"labels": {f"key-{number}": "x" for number in range(100)}},
    ],
    ids=lambda each: next(iter(each)),
)
def test_an_agent_s_lease_keeps_nothing_from_being_deleted(
    enforcing: ControlPlane, nodes: tuple[str, str], metadata: Object
) -> None:
    agent = User(enforcing, NAMESPACE, agent_kubeconfig(enforcing, nodes[0]))
    assert "no finalizers" in refused(lambda: agent.create(agents_lease(f"agent.{nodes[0]}", **metadata)))


@pytest.mark.parametrize("holder", ["x" * 100_000, "another"], ids=len)
def test_an_agent_s_lease_is_held_by_its_node(enforcing: ControlPlane, nodes: tuple[str, str], holder: str) -> None:
    agent = User(enforcing, NAMESPACE, agent_kubeconfig(enforcing, nodes[0]))
    lease = agents_lease(f"agent.{nodes[0]}")
    lease["spec"]["holderIdentity"] = holder
    assert "and nothing else" in refused(lambda: agent.create(lease))


def test_what_an_administrator_writes_into_an_agent_s_lease_keeps_no_agent_from_renewing_it(
    enforcing: ControlPlane, nodes: tuple[str, str]
) -> None:
    agent = User(enforcing, NAMESPACE, agent_kubeconfig(enforcing, nodes[0]))
    name = f"agent.{nodes[0]}"
    agent.create(agents_lease(name))
    enforcing.kubectl("annotate", "lease", name, "example.com/note=mine", f"--namespace={NAMESPACE}")
    renewed = get(enforcing, "lease", name, f"--namespace={NAMESPACE}")
    renewed["spec"]["renewTime"] = "2026-01-01T00:00:00.000000Z"
    agent.kubectl("replace", "--filename=-", stdin=json.dumps(renewed))
    assert get(enforcing, "lease", name, f"--namespace={NAMESPACE}")["metadata"]["annotations"]


def controllers_lease(metadata: Object, spec: Object) -> Object:
    named = {"name": "kubeballoon-controller", "namespace": NAMESPACE, **metadata}
    head = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"}
    return {**head, "metadata": named, "spec": {"holderIdentity": "pod_1", **spec}}


LEASE_THEFTS: dict[str, tuple[Object, Object]] = {
    "another name": ({"name": "another"}, {}),
    "finalizers": ({"finalizers": ["example.com/never"]}, {}),
    "labels": ({"labels": {"a": "b"}}, {}),
    "another annotation": ({"annotations": {"example.com/note": "x"}}, {}),
    "a long annotation": ({"annotations": {"kubeballoon.io/leader-account": "x" * 100_000}}, {}),
    "a long holder": ({}, {"holderIdentity": "x" * 100_000}),
}
"""Metadata and spec that a thief would write into the controllers' Lease, or into another one."""


def is_admitted(user: User, lease: Object) -> bool:
    """Whether somebody may create a Lease, which may exist already."""
    try:
        user.kubectl("create", "--dry-run=server", "--filename=-", stdin=json.dumps(lease))
    except ControlPlaneError as error:
        return "already exists" in str(error)
    return True


@pytest.mark.parametrize("part", ["controller", "uninstall"])
def test_a_stolen_token_writes_into_the_controllers_lease_what_elections_need_and_nothing_else(
    enforcing: ControlPlane, part: str
) -> None:
    thief = User(enforcing, NAMESPACE, enforcing.service_account_kubeconfig(NAMESPACE, f"{RELEASE}-{part}"))
    for metadata, spec in LEASE_THEFTS.values():
        lease = json.dumps(controllers_lease(metadata, spec))
        command = ("create", "--dry-run=server", "--filename=-")
        assert "the controllers' Lease" in refused(partial(thief.kubectl, *command, stdin=lease))
    uid = "5cd0ad2c-7e5e-4a35-8ef9-5b2e1a8e0d1c"
    annotations = {f"kubeballoon.io/{name}-account": uid for name in ("leader", "shut-out")}
    assert is_admitted(thief, controllers_lease({"annotations": annotations}, {"leaseTransitions": 1}))


def test_a_stolen_controllers_token_deletes_leases_of_agents_only(
    enforcing: ControlPlane, nodes: tuple[str, str]
) -> None:
    thief = User(enforcing, NAMESPACE, enforcing.service_account_kubeconfig(NAMESPACE, f"{RELEASE}-controller"))
    for name in (f"agent.{nodes[0]}", f"other-{nodes[0]}"):
        enforcing.kubectl("create", "--filename=-", stdin=json.dumps(agents_lease(name)))
    assert "delete those of agents" in refused(lambda: thief.kubectl("delete", "lease", f"other-{nodes[0]}"))
    thief.kubectl("delete", "lease", f"agent.{nodes[0]}", "--wait=false")
    enforcing.kubectl("delete", "lease", f"other-{nodes[0]}", f"--namespace={NAMESPACE}")


def test_an_agent_writes_no_request(enforcing: ControlPlane, tenant: User, nodes: tuple[str, str]) -> None:
    tenant.create(vmi(tenant.namespace))
    agent = Thief(json.loads(agent_kubeconfig(enforcing, nodes[0]).read_text()))
    request: Object = {"metadata": {"annotations": {TARGET: "1Mi"}}}
    assert "cannot patch resource" in refused(lambda: agent.patch(paths.instance(tenant.namespace, "vm"), request))


def test_a_policy_needs_the_right_to_it(tenant: User) -> None:
    policy = {
        "apiVersion": "kubeballoon.io/v1alpha1",
        "kind": "MemoryPolicy",
        "metadata": {"name": "mine"},
        "spec": {"selector": {}},
    }
    assert 'cannot create resource "memorypolicies"' in refused(lambda: tenant.create(policy))


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
    enforcing: ControlPlane,
    role: str,
    verb: str,
    kind: str,
    allowed: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    user = f"{role}-everywhere"
    binding = ("create", "clusterrolebinding", user, f"--clusterrole={role}", f"--user={user}")
    with suppress(ControlPlaneError):  # it exists already
        enforcing.kubectl(*binding)
    until(lambda: is_allowed(enforcing, user, verb, kind) == allowed, 60)
