"""This module lists the words before the slash of KIND/NAME that kubectl accepts for VMs and nodes."""

from __future__ import annotations

VM_ALIASES = (
    "vm",
    "vms",
    "vmi",
    "vmis",
    "virtualmachine",
    "virtualmachineinstance",
    "virtualmachineinstance.kubevirt.io",
)
NODE_ALIASES = ("node", "nodes", "no")
