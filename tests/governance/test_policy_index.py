"""An index of policies finds what trying all of them finds."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from kubeballoon.governance.policy_selection import PolicyIndex, govern
from kubeballoon.governance.policy_types import MEMORY
from tests.support.cluster import memory_policy

KEYS, VALUES = st.sampled_from("abc"), st.sampled_from(["", "x", "y"])
LABELS = st.dictionaries(KEYS, VALUES)
WITH_VALUES = st.fixed_dictionaries(
    {"key": KEYS, "operator": st.sampled_from(["In", "NotIn"]), "values": st.lists(VALUES, min_size=1, max_size=3)}
)
WITHOUT_VALUES = st.fixed_dictionaries({"key": KEYS, "operator": st.sampled_from(["Exists", "DoesNotExist"])})
SELECTORS = st.fixed_dictionaries(
    {}, optional={"matchLabels": LABELS, "matchExpressions": st.lists(WITH_VALUES | WITHOUT_VALUES, max_size=2)}
)
POLICIES = st.lists(st.tuples(SELECTORS, SELECTORS, st.integers(0, 2), st.booleans()), max_size=6)


@given(POLICIES, LABELS, LABELS)
def test_an_index_finds_the_same_policies_in_the_same_order(
    policies: list[tuple[dict[str, Any], dict[str, Any], int, bool]],
    labels: dict[str, str],
    namespace_labels: dict[str, str],
) -> None:
    loaded = []
    for number, (of_vms, of_namespaces, priority, deleted) in enumerate(policies):
        selector = {"virtualMachineSelector": of_vms, "namespaceSelector": of_namespaces}
        body = memory_policy(f"p{number}", selector=selector, priority=priority)
        if deleted:
            body["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        loaded.append(MEMORY.load(body))
    assert PolicyIndex(loaded).govern(labels, namespace_labels) == govern(loaded, labels, namespace_labels)
