"""A policy of a newer version, which this controller cannot read, governs no VM, and its status says so."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from hack.testbed.controlplane import ControlPlane, ControlPlaneError
from kubeballoon.controller.policy_store import PolicyStore
from kubeballoon.governance.policy_types import MEMORY
from tests.support.cluster import FakeNode, Object, condition, get, memory_policy
from tests.support.waiting import until

CRD = "memorypolicies.kubeballoon.io"
MODES = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/mode/enum"
UNKNOWN = "Dream"


@pytest.fixture
def newer(installed: ControlPlane) -> Iterator[ControlPlane]:
    """An API server whose CRD is of a newer version, which has one mode more."""

    def patch(operation: Object) -> None:
        installed.kubectl("patch", "crd", CRD, "--type=json", f"--patch={json.dumps([operation])}")

    def is_accepted() -> bool:
        policy = json.dumps(memory_policy("newer", mode=UNKNOWN))
        try:
            installed.kubectl("create", "--dry-run=server", "--filename=-", stdin=policy)
        except ControlPlaneError as error:
            if "Unsupported value" not in str(error):
                raise
            return False
        return True

    patch({"op": "add", "path": f"{MODES}/-", "value": UNKNOWN})
    until(is_accepted)
    yield installed
    installed.kubectl("delete", "mempol", "--all")
    patch({"op": "remove", "path": f"{MODES}/2"})
    until(lambda: not is_accepted())


@pytest.mark.cluster
@pytest.mark.usefixtures("leader")
def test_an_unreadable_policy_governs_no_vm_any_more_and_says_so(newer: ControlPlane, node: FakeNode) -> None:
    node.add("vm")
    node.report()
    newer.apply(memory_policy("default", memory={"max": "50%"}))
    until(lambda: node.targets() != {})
    newer.apply(memory_policy("default", mode=UNKNOWN, memory={"max": "50%"}))
    until(lambda: condition(newer, "default", "Ready").get("reason") == "Unreadable")
    ready = condition(newer, "default", "Ready")
    assert ready["status"] == "False"
    assert "spec.mode: Input should be 'Enforce' or 'Observe'" in ready["message"]
    until(lambda: node.targets() == {})
    status = get(newer, "mempol", "default")["status"]
    assert status["observedGeneration"] == ready["observedGeneration"] == 2
    assert [each["type"] for each in status["conditions"]] == ["Ready"]
    newer.apply(memory_policy("default", memory={"max": "50%"}))
    until(lambda: condition(newer, "default", "Ready").get("reason") == "Enforcing")
    until(lambda: node.targets() != {})


def policy(version: int, uid: str = "u", mode: str = "Enforce") -> Object:
    body = memory_policy("p", mode=mode)
    body["metadata"] |= {"uid": uid, "resourceVersion": str(version)}
    return body


def test_an_unreadable_version_replaces_only_older_ones() -> None:
    store = PolicyStore(MEMORY)
    assert store.put(policy(2))
    assert not store.put(policy(1, mode=UNKNOWN)), "it is older"
    assert (set(store.policies), set(store.unreadable)) == ({"p"}, set())
    assert store.put(policy(3, mode=UNKNOWN))
    assert not store.put(policy(2)), "it is older"
    assert not store.put(policy(4, mode=UNKNOWN)), "it is no news"
    assert (set(store.policies), set(store.unreadable)) == (set(), {"p"})
    assert store.put(policy(5))
    assert (set(store.policies), set(store.unreadable)) == ({"p"}, set())


def test_a_deleted_policy_is_forgotten_but_not_its_successor_of_the_same_name() -> None:
    store = PolicyStore(MEMORY)
    store.put(policy(1, mode=UNKNOWN))
    store.remove("p", "another")
    assert set(store.unreadable) == {"p"}
    store.remove("p", "u")
    assert not store.unreadable
