"""Which policy stands behind a request, whatever the VM's annotations say."""

from __future__ import annotations

from typing import Any

import pytest

from hack.testbed.lab import MIB, GuestSpec, vmi_object
from kubeballoon.agent.vm.policy_backing import KnownPolicies, PolicyBacking, PolicyReader
from kubeballoon.agent.vm.vmi import Instance, read_instance
from tests.support.cluster import Object, memory_policy

SIZE = 1024 * MIB
PRODUCTION = {"tier": "production"}


def vm(**annotations: str) -> Instance:
    keys = {f"kubeballoon.io/{key.replace('_', '-')}": value for key, value in annotations.items()}
    made = vmi_object(GuestSpec(name="vm", memory_bytes=SIZE), "pod", "here", annotations=keys, labels={"app": "db"})
    made["metadata"]["uid"] = "vm"
    found = read_instance(made, "here")
    assert found is not None
    return found


def policy(name: str, minimum: str, *, namespace: dict[str, str] | None = None, **spec: Any) -> Object:
    selector = {"namespaceSelector": {"matchLabels": namespace}} if namespace is not None else {}
    return memory_policy(name, memory={"min": minimum}, **{"selector": selector, **spec})


def stored(body: Object, version: str = "1") -> Object:
    """Return a policy as the API server has it."""
    return {**body, "metadata": {**body["metadata"], "uid": body["metadata"]["name"], "resourceVersion": version}}


def obligations(*bodies: Object, namespace: dict[str, str] | None, **annotations: str) -> tuple[int | None, bool]:
    """Find the VM's minimum, in MiB, and whether it is to follow requests."""
    found = PolicyReader().read(map(stored, bodies)).backing(vm(**annotations), namespace)
    minimum = found.minimum(vm(**annotations), SIZE)
    return None if minimum is None else minimum // MIB, found.binding


STRONG = policy("strong", "90%", namespace=PRODUCTION, priority=10)
WEAK = policy("weak", "128Mi")


@pytest.mark.parametrize("named", ["weak", "absent"])
def test_the_policy_that_selects_the_vm_holds_whichever_is_named(named: str) -> None:
    forged = {"policy": named, "memory_min": "1Mi", "memory_target": "1Mi"}
    assert obligations(STRONG, WEAK, namespace=PRODUCTION, **forged) == (921, True)
    assert obligations(STRONG, WEAK, namespace={"tier": "test"}, **forged) == (128, True)


def test_without_the_labels_of_its_namespace_the_policy_that_guarantees_most_holds() -> None:
    assert obligations(STRONG, WEAK, namespace=None) == (921, True)
    below = policy("never", "95%", namespace=PRODUCTION, priority=-1)  # WEAK is before it in any namespace
    assert obligations(below, WEAK, namespace=None) == (128, True)


@pytest.mark.parametrize(
    "body",
    [
        policy("observing", "50%", mode="Observe"),
        policy("others", "50%", selector={"virtualMachineSelector": {"matchLabels": {"app": "web"}}}),
        {**WEAK, "metadata": {"name": "going", "deletionTimestamp": "2026-01-01T00:00:00Z"}},
        {**WEAK, "metadata": {"name": "released", "annotations": {"kubeballoon.io/release": "true"}}},
    ],
    ids=["observes", "selects others", "is being deleted", "is released"],
)
def test_no_request_is_followed_where_no_policy_requests_anything(body: Object) -> None:
    assert not obligations(body, namespace={})[1]


def test_what_a_vm_s_pod_has_requested_may_be_its_minimum() -> None:
    by_request = policy("by-request", "PodRequest")
    assert obligations(by_request, namespace={}) == (512, True), "the lab's guests request half of their memory"
    assert obligations(by_request, WEAK, namespace={"tier": "test"}) == (512, True), "its name sorts first"


def test_an_owner_s_exclusion_counts_where_the_policy_lets_it() -> None:
    assert obligations(WEAK, namespace={}, exclude="true") == (128, False)
    assert obligations({**WEAK, "spec": {**WEAK["spec"], "ownerExclusion": "Deny"}}, namespace={}, exclude="true")[1]


def test_annotations_are_believed_only_while_no_policies_are_known() -> None:
    assert KnownPolicies().backing(vm(memory_min="100Mi"), {}) == PolicyBacking(None, binding=True)
    assert KnownPolicies().backing(vm(), {}).minimum(vm(memory_min="100Mi"), SIZE) == 100 * MIB


def test_a_policy_of_a_newer_version_makes_no_request_void() -> None:
    newer = policy("newer", "50%", mode="Dream")
    assert obligations(newer, namespace={}, memory_min="100Mi") == (100, True)
    assert obligations(newer, WEAK, namespace={}) == (128, True)


def test_each_version_of_a_policy_is_translated_once() -> None:
    reader = PolicyReader()
    strong, weak = reader.read([stored(STRONG), stored(WEAK)]).known
    again = reader.read([stored(STRONG), stored(policy("weak", "256Mi"), version="2")]).known
    assert again[0] is strong
    assert (weak.terms.minimum.of(SIZE), again[1].terms.minimum.of(SIZE)) == (128 * MIB, 256 * MIB)
    (weak_again,) = reader.read([stored(WEAK)]).known
    assert weak_again == weak, "what is no longer there is forgotten"
    assert weak_again is not weak


def test_a_policy_that_could_not_be_read_is_missing_at_every_reading() -> None:
    reader, newer = PolicyReader(), stored(policy("newer", "50%", mode="Dream"))
    assert [reader.read([newer, stored(WEAK)]).complete for _ in range(2)] == [False, False]
    assert reader.read([stored(WEAK)]).complete
