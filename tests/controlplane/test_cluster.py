"""The control plane is complete: authorization, KubeVirt's schemas, token claims and garbage collection work."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from hack.testbed.controlplane import ControlPlane, ControlPlaneError, NamedControlPlane
from hack.testbed.controlplane.control_plane import KUBEVIRT_CRDS
from hack.testbed.controlplane.programs import WITHOUT_CONTROLLERS

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).parents[2]

pytestmark = pytest.mark.cluster


def who_is(control_plane: ControlPlane, user_kubeconfig: Path) -> dict[str, Any]:
    review = control_plane.kubectl("auth", "whoami", "--output=json", kubeconfig=user_kubeconfig)
    user: dict[str, Any] = json.loads(review)["status"]["userInfo"]
    return user


def virtual_machine_instance(namespace: str, **domain: Any) -> dict[str, Any]:
    return {
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachineInstance",
        "metadata": {"name": "vm", "namespace": namespace},
        "spec": {"domain": {"devices": {}, **domain}},
    }


def test_refuses_anonymous_user(control_plane: ControlPlane) -> None:
    view = json.loads(control_plane.kubectl("config", "view", "--minify", "--flatten", "--raw", "--output=json"))
    cluster = view["clusters"][0]["cluster"]
    authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
    connection = http.client.HTTPSConnection(
        urlsplit(cluster["server"]).netloc, timeout=10, context=ssl.create_default_context(cadata=authority)
    )
    with closing(connection):
        connection.request("GET", "/api/v1/nodes")
        assert connection.getresponse().status == 403


@pytest.fixture
def service_account(control_plane: ControlPlane, namespace: str) -> str:
    control_plane.kubectl("create", "serviceaccount", "agent", f"--namespace={namespace}")
    return "agent"


def test_refuses_unprivileged_service_account(
    control_plane: ControlPlane, namespace: str, service_account: str
) -> None:
    account = control_plane.service_account_kubeconfig(namespace, service_account)
    with pytest.raises(
        ControlPlaneError, match=rf'Forbidden.*"system:serviceaccount:{namespace}:{service_account}" cannot list'
    ):
        control_plane.kubectl("get", "virtualmachineinstances", f"--namespace={namespace}", kubeconfig=account)


@pytest.fixture
def node(control_plane: ControlPlane, namespace: str) -> Iterator[str]:
    control_plane.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": namespace}})
    yield namespace
    control_plane.kubectl("delete", "node", namespace)


def test_token_bound_to_pod_names_its_node(
    control_plane: ControlPlane, namespace: str, service_account: str, node: str
) -> None:
    containers = [{"name": "agent", "image": "none"}]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "agent-of-node", "namespace": namespace},
        "spec": {"nodeName": node, "serviceAccountName": service_account, "containers": containers},
    }
    control_plane.apply(pod)
    bound = control_plane.service_account_kubeconfig(namespace, service_account, pod="agent-of-node")
    user = who_is(control_plane, bound)
    assert user["username"] == f"system:serviceaccount:{namespace}:{service_account}"
    assert user["extra"]["authentication.kubernetes.io/node-name"] == [node]


def test_user_has_name_and_groups(control_plane: ControlPlane) -> None:
    user = who_is(control_plane, control_plane.user_kubeconfig("alice@example.org", ("tenants", "auditors")))
    assert user["username"] == "alice@example.org"
    assert {"tenants", "auditors"} <= set(user["groups"])


def test_named_cluster_signs_its_users_certificates(control_plane: ControlPlane) -> None:
    if not control_plane.has_controllers:
        pytest.skip(WITHOUT_CONTROLLERS)
    with NamedControlPlane(control_plane.kubeconfig) as named:
        user = who_is(named, named.user_kubeconfig("alice", ("tenants",)))
    assert user["username"] == "alice"
    assert "tenants" in user["groups"]


def test_installs_all_kubevirt_crds(control_plane: ControlPlane) -> None:
    kinds = control_plane.kubectl("api-resources", "--output=name").split()
    assert set(kinds) >= set(KUBEVIRT_CRDS)


def test_leaves_installed_kubevirt_crds_as_they_are(control_plane: ControlPlane) -> None:
    crd = "crd/virtualmachineinstances.kubevirt.io"
    control_plane.kubectl("label", crd, "test=kept")
    control_plane.install_kubevirt_crds()
    assert control_plane.kubectl("get", crd, "--output=jsonpath={.metadata.labels.test}") == "kept"
    control_plane.kubectl("label", crd, "test-")


def test_creates_virtual_machine_instance(control_plane: ControlPlane, namespace: str) -> None:
    control_plane.apply(virtual_machine_instance(namespace, memory={"guest": "1Gi"}))
    stored = json.loads(control_plane.kubectl("get", "vmi", "vm", f"--namespace={namespace}", "--output=json"))
    assert stored["spec"]["domain"]["memory"]["guest"] == "1Gi"


def test_refuses_what_kubevirts_schema_does_not_allow(control_plane: ControlPlane, namespace: str) -> None:
    with pytest.raises(ControlPlaneError, match=r"spec\.domain"):
        control_plane.apply(virtual_machine_instance(namespace, cpu={"cores": "many"}))


def test_deletes_what_a_deleted_owner_owned(control_plane: ControlPlane, namespace: str) -> None:
    if not control_plane.has_controllers:
        pytest.skip(WITHOUT_CONTROLLERS)
    create = ("create", f"--namespace={namespace}", "--filename=-", "--output=jsonpath={.metadata.uid}")
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "owner"}}
    uid = control_plane.kubectl(*create, stdin=json.dumps(owner))
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid}
    owned = {**owner, "metadata": {"name": "owned", "ownerReferences": [reference]}}
    control_plane.kubectl(*create, stdin=json.dumps(owned))
    control_plane.kubectl("delete", "configmap", "owner", f"--namespace={namespace}")
    control_plane.kubectl("wait", "--for=delete", "configmap/owned", f"--namespace={namespace}", "--timeout=50s")


def test_command_line_runs_until_asked_to_end(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hack.testbed.controlplane", "up", "--bare", "--dir", str(tmp_path / "run")]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, encoding="utf-8") as running:
        assert running.stdout
        assert Path(running.stdout.readline().strip()).is_file()
        running.terminate()
        assert running.wait(timeout=60) == 0
