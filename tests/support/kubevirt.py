"""The VMs of the tests on a real KubeVirt cluster, which are in one namespace."""

from __future__ import annotations

from dataclasses import dataclass

from hack.testbed.kubevirt import vm
from hack.testbed.kubevirt.vm import BOOT_SECONDS, VMS, Script, begin_migration, merged, migrate

__all__ = ["BOOT_SECONDS", "NAMESPACE", "VM", "VMS", "Script", "begin_migration", "merged", "migrate"]

NAMESPACE = "e2e"


@dataclass(frozen=True, slots=True)
class VM(vm.VM):
    """A VM in the tests' namespace."""

    namespace: str = NAMESPACE
