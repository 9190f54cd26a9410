"""The words for kinds that kubectl takes, too, before the name of one."""

from __future__ import annotations

VM_WORDS = ("vm", "vms", "vmi", "vmis", "virtualmachine", "virtualmachineinstance")
NODE_WORDS = ("node", "nodes", "no")
