"""This module says why VMs must not be migrated, by what their node's agent reports."""

from __future__ import annotations

from collections.abc import Iterable

from kubeballoon.api.v1alpha1 import VirtualMachineReport
from kubeballoon.vocabulary import Migratability

_WHY = {
    Migratability.NOT_MIGRATABLE: "KubeVirt cannot migrate it",
    Migratability.EXTERNAL: "its evictionStrategy leaves that to another program",
    None: "its node's agent does not say whether it may be migrated",
}


def migration_hindrances(reports: Iterable[VirtualMachineReport]) -> dict[str, str]:
    """Say why VMs must not be migrated, by uid; those that may be are left out."""
    found = ((report.uid, _hindrance(report)) for report in reports)
    return {uid: why for uid, why in found if why is not None}


def _hindrance(report: VirtualMachineReport) -> str | None:
    return "its owner excluded it" if report.owner_excluded else _WHY.get(report.migratability)
