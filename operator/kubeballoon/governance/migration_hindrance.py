"""This module says why VMs must not be migrated, by what their node's agent reports."""

from __future__ import annotations

from collections.abc import Iterable
from typing import assert_never

from kubeballoon.api.v1alpha1 import VirtualMachineReport
from kubeballoon.vocabulary import Migratability


def migration_hindrances(reports: Iterable[VirtualMachineReport]) -> dict[str, str]:
    """Say why VMs must not be migrated, by uid; those that may be are left out."""
    found = ((report.uid, _hindrance(report)) for report in reports)
    return {uid: why for uid, why in found if why is not None}


def _hindrance(report: VirtualMachineReport) -> str | None:
    if report.owner_excluded:
        return "its owner excluded it"
    match report.migratability:
        case Migratability.MIGRATABLE:
            return None
        case Migratability.NOT_MIGRATABLE:
            return "KubeVirt cannot migrate it"
        case Migratability.EXTERNAL:
            return "its evictionStrategy leaves that to another program"
        case None:
            return "its node's agent does not say whether it may be migrated"
    assert_never(report.migratability)
