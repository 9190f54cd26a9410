"""Requests are written on the VMI that is meant, on the real API server with the chart's rights, and on no other."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from hack.testbed.chart import NAMESPACE, RELEASE
from hack.testbed.controlplane import ControlPlane
from hack.testbed.lab import GuestSpec, vmi_object
from kubeballoon.cluster import paths
from kubeballoon.cluster.client import ApiClient
from kubeballoon.cluster.vmi_annotations import VMIAnnotator, VMIReference, WriteResult
from tests.support.cluster import MIB, Object, get

TARGET = "kubeballoon.io/memory-target"
MIN = "kubeballoon.io/memory-min"


@pytest.fixture
async def annotator(installed: ControlPlane) -> AsyncIterator[VMIAnnotator]:
    account = installed.service_account_kubeconfig(NAMESPACE, f"{RELEASE}-controller")
    async with await ApiClient.connect("test", account) as cluster:
        yield VMIAnnotator(cluster)


def create(plane: ControlPlane, namespace: str, **annotations: str) -> VMIReference:
    """Create a VMI on the node "home", and refer to it."""
    spec = GuestSpec(name="vm", namespace=namespace, memory_bytes=64 * MIB)
    plane.apply(vmi_object(spec, "pod", "home", annotations=annotations))
    uid = get(plane, "vmi", "vm", f"--namespace={namespace}")["metadata"]["uid"]
    return VMIReference(namespace, "vm", uid, "home")


def annotations_of(plane: ControlPlane, vmi: VMIReference) -> Object:
    found = get(plane, "vmi", vmi.name, f"--namespace={vmi.namespace}")["metadata"].get("annotations", {})
    return {key: value for key, value in found.items() if not key.startswith("kubectl")}


@pytest.mark.parametrize("present", [{}, {"team.example/note": "kept"}], ids=["without any", "beside others"])
async def test_annotations_are_written_again_and_removed(
    installed: ControlPlane, namespace: str, annotator: VMIAnnotator, present: dict[str, str]
) -> None:
    vmi = create(installed, namespace, **present)
    for _ in range(2):  # the same once more: a controller that has just started does not know what is there
        assert await annotator.write(vmi, {TARGET: "32Mi", MIN: None}) is WriteResult.WRITTEN
        assert annotations_of(installed, vmi) == {TARGET: "32Mi", **present}
    for _ in range(2):
        assert await annotator.write(vmi, {TARGET: None, MIN: None}) is WriteResult.WRITTEN
        assert annotations_of(installed, vmi) == present


async def test_nothing_is_written_on_a_vm_of_another_uid_or_node(
    installed: ControlPlane, namespace: str, annotator: VMIAnnotator
) -> None:
    vmi = create(installed, namespace, kept="1")
    for wrong in (
        VMIReference(namespace, "vm", vmi.uid, "another"),
        VMIReference(namespace, "vm", "another", "home"),
        VMIReference(namespace, "vm", "another", None),
    ):
        for value in ("32Mi", None):
            assert await annotator.write(wrong, {TARGET: value}) is WriteResult.MISMATCHED
    assert annotations_of(installed, vmi) == {"kept": "1"}


async def test_a_vm_that_is_gone_is_gone(namespace: str, annotator: VMIAnnotator) -> None:
    gone = VMIReference(namespace, "vm", "uid", "home")
    assert await annotator.write(gone, {TARGET: "32Mi"}) is WriteResult.GONE


@pytest.mark.parametrize("name", ["a/b", "../x", "a?b=c", "a#b", "a%2fb"])
def test_a_name_stays_one_segment_of_a_path(name: str) -> None:
    before, _, after = paths.instance("n", name).rpartition("/")
    assert before == paths.instance("n", "").rstrip("/")
    assert not set(after) & set("/?#")


@pytest.mark.parametrize("name", [".", ".."])
def test_a_path_has_no_segment_that_leads_elsewhere(name: str) -> None:
    with pytest.raises(ValueError, match="no name of an object"):
        paths.instance(name, "vm")
