"""A guest lab: real guests with the balloon driver, in libvirt daemons as KubeVirt has them, on nodes of any memory size.

No KVM, container engine or cluster is needed, but root and the Debian packages of packages.txt.

    with LabNode("node-1", memory_bytes=1 << 30) as node:
        web, database = node.boot(GuestSpec(name="web"), GuestSpec(name="database", memory_bytes=512 * MIB))
        web.load.set(100)  # MiB
        print(node.usage_bytes(), web.memory_stats())

`python -m hack.lab --help` is the same by hand; objects.py has the Kubernetes objects that KubeVirt would have made.
"""

from __future__ import annotations

from .errors import DeadlineError, GuestKilledError, LabError
from .load import Fill, GuestLoad, LoadReport
from .node import LabNode
from .pod import LauncherPod
from .spec import MIB, GuestSpec

__all__ = [
    "MIB",
    "DeadlineError",
    "Fill",
    "GuestKilledError",
    "GuestLoad",
    "GuestSpec",
    "LabError",
    "LabNode",
    "LauncherPod",
    "LoadReport",
]
