"""The cluster of `make cluster`, with this checkout's kubeballoon in it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from hack.testbed.chart import NAMESPACE as SYSTEM
from hack.testbed.controlplane import ControlPlane, NamedControlPlane
from hack.testbed.kubevirt import cluster as testbed
from tests.support.kubevirt import NAMESPACE, VM


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks every test here: they need minutes, and a machine for themselves."""
    for item in items:
        if "e2e" in item.path.parts:
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def plane() -> Iterator[ControlPlane]:
    """The cluster's API; kubeballoon is installed, and no policy is left from before."""
    if not testbed.KUBECONFIG.exists():
        pytest.fail("there is no cluster: make cluster", pytrace=False)
    testbed.ensure()
    with NamedControlPlane(testbed.KUBECONFIG) as opened:
        opened.kubectl("delete", "mempol,cpupol", "--all")
        opened.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        yield opened


@pytest.fixture(scope="session")
def vms(plane: ControlPlane) -> Iterator[tuple[VM, VM]]:
    """Two VMs of 2 GiB on one node of 4 GiB, which needs some for itself."""
    made = (VM(plane, "calm"), VM(plane, "busy"))
    for vm in made:
        vm.delete()
        vm.create()
    for vm in made:
        vm.wait()
    yield made
    for vm in made:
        vm.delete()


@pytest.fixture
def policy(plane: ControlPlane) -> Iterator[str]:
    """A policy for all VMs of the tests' namespace, which goes with the test."""
    selector = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": NAMESPACE}}}
    plane.apply(
        {
            "apiVersion": "kubeballoon.io/v1alpha1",
            "kind": "MemoryPolicy",
            "metadata": {"name": "e2e"},
            "spec": {"selector": selector, "memory": {"min": "25%"}},
        }
    )
    yield "e2e"
    plane.kubectl("delete", "mempol", "e2e", "--ignore-not-found")


def pods(plane: ControlPlane, part: str) -> list[str]:
    """The names of the running pods of one of kubeballoon's parts."""
    selector = f"--selector=app.kubernetes.io/component={part}"
    found = json.loads(plane.kubectl("get", "pod", selector, f"--namespace={SYSTEM}", "--output=json"))["items"]
    return [
        pod["metadata"]["name"]
        for pod in found
        if all(status["ready"] for status in pod["status"].get("containerStatuses", [{"ready": False}]))
        and "deletionTimestamp" not in pod["metadata"]
    ]
