"""This module lists the conditions of policies and node reports, and the reasons that go with them."""

from __future__ import annotations

from enum import StrEnum
from typing import assert_never

from kubeballoon import vocabulary


class ConditionType(StrEnum):
    """A ConditionType names a condition of a policy or of a node's report."""

    READY = "Ready"
    DEGRADED = "Degraded"
    SHORTFALL = "Shortfall"
    AT_RISK = "AtRisk"
    CONTENDED = "Contended"
    CONFLICTED = "Conflicted"
    SELF_SERVICE = "SelfService"

    @property
    def good_when_true(self) -> bool:
        """Whether nobody needs to do anything while the condition is true, instead of while it is not."""
        match self:
            case ConditionType.READY:
                return True
            case (
                ConditionType.DEGRADED
                | ConditionType.SHORTFALL
                | ConditionType.AT_RISK
                | ConditionType.CONTENDED
                | ConditionType.CONFLICTED
                | ConditionType.SELF_SERVICE
            ):
                return False
        assert_never(self)


class ConditionReason(StrEnum):
    """A ConditionReason says in one word why a condition is true or false, or why that is not known."""

    # Ready, of a policy
    ENFORCING = "Enforcing"
    OBSERVING = "Observing"
    NO_VIRTUAL_MACHINES = "NoVirtualMachines"
    NOT_GOVERNING = "NotGoverning"
    RELEASED = "Released"
    UNREADABLE = "Unreadable"
    # Ready, of a NodePolicy
    NO_NODES = "NoNodes"
    # Ready, of a node's report
    REPORTING = "Reporting"
    VIRTUAL_MACHINES_UNREACHABLE = "VirtualMachinesUnreachable"
    # Degraded; AGENT_SILENT is also why Ready, Shortfall, AtRisk and Contended are unknown
    PATCH_FAILED = "PatchFailed"
    MISREPORTED = "Misreported"
    ROUND_FAILED = "RoundFailed"
    AGENT_SILENT = "AgentSilent"
    UNRESPONSIVE = vocabulary.UNRESPONSIVE
    REFUSED_BY_NODES = "RefusedByNodes"
    OLD_AGENTS = "OldAgents"
    TAINTS_DISABLED = "TaintsDisabled"
    TAINT_FAILED = "TaintFailed"
    MIGRATIONS_DISABLED = "MigrationsDisabled"
    MIGRATION_FAILED = "MigrationFailed"
    AS_EXPECTED = "AsExpected"
    # Shortfall
    MINIMUMS_EXCEED_CAPACITY = "MinimumsExceedCapacity"
    MINIMUMS_FIT = "MinimumsFit"
    # AtRisk
    CAPACITY_EXCEEDED = "CapacityExceeded"
    CAPACITY_SUFFICES = "CapacitySuffices"
    # Contended
    MEMORY_WITHHELD = "MemoryWithheld"
    NOTHING_WITHHELD = "NothingWithheld"
    # Conflicted
    SAME_PRIORITY = "SamePriority"
    NO_CONFLICT = "NoConflict"
    # SelfService
    LABELS_ALONE = "LabelsAlone"
    BOUNDED = "Bounded"
