"""The reference's tables of conditions, events, exclusions and decisions name every one that there is."""

from __future__ import annotations

import re
from pathlib import Path

from kubeballoon.api.conditions import ConditionReason, ConditionType
from kubeballoon.api.reasons import AgentReason
from kubeballoon.controller.migration_canceller import MIGRATION_CANCELLED
from kubeballoon.controller.node_tainter import TAINTED, UNTAINTED, WOULD_TAINT
from kubeballoon.controller.vm_migrator import MIGRATES, NO_MIGRATION_HELPS, WOULD_MIGRATE
from kubeballoon.core.decision_reason import DecisionReason
from kubeballoon.governance.exclusion import ExclusionReason
from kubeballoon.governance.policy_types import MEMORY, PROCESSORS
from kubeballoon.vocabulary import NodeState

REFERENCE = (Path(__file__).resolve().parents[2] / "docs/reference.md").read_text()


def _section(begin: str, end: str) -> str:
    return REFERENCE.split(begin)[1].split(end)[0]


def _quoted(text: str) -> set[str]:
    return set(re.findall(r"`(\w+)`", text))


def test_the_reference_explains_every_condition_and_names_every_reason() -> None:
    section = _section("### Conditions", "\n### ")
    assert set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == set(ConditionType)
    assert set(ConditionReason) <= _quoted(section)


def test_the_reference_names_every_reason_for_which_a_governed_vm_is_left_alone() -> None:
    assert set(ExclusionReason) <= _quoted(_section("\n`status.excluded[].reason` of a policy", "\n### "))


def test_the_reference_explains_every_reason_of_a_decision() -> None:
    table = _section("\n| `REASON` | meaning |", "\n\n")
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == set(DecisionReason)


def test_the_reference_names_the_events_of_vms_and_nodes() -> None:
    posted = {event for each in (MEMORY, PROCESSORS) for event in (each.reclaimed_event, each.returned_event)}
    posted |= {f"Memory{state}" for state in NodeState} | {DecisionReason.UNRESPONSIVE, ConditionType.SHORTFALL}
    posted |= {ConditionReason.MEMORY_WITHHELD, ConditionReason.MISREPORTED, TAINTED, UNTAINTED, WOULD_TAINT}
    posted |= {MIGRATES, WOULD_MIGRATE, NO_MIGRATION_HELPS, MIGRATION_CANCELLED}
    posted |= {reason for reason in AgentReason if reason.is_offence}
    assert set(_quoted(_section("### Events", "\n## "))) == posted
