"""Objects that a cluster of KubeVirt 1.9 had, for what only newer releases than the test cluster's do.

They were read from its API server, where KubeVirt's own webhooks and controllers had completed them; what nothing reads
was taken out. Those of VMs that its machine could not run (hugepages, passed-through devices and the like) are as the
webhooks left them, and never ran.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_DIRECTORY = Path(__file__).resolve().parents[1] / "data/kubevirt-1.9"


def stored_vmi(name: str) -> dict[str, Any]:
    """Read a stored VirtualMachineInstance."""
    vmi: dict[str, Any] = json.loads((_DIRECTORY / f"{name}.json").read_text())
    return vmi


def stored_domain() -> str:
    """Read the XML of the libvirt domain of ``after-hotplug``."""
    return (_DIRECTORY / "after-hotplug.xml").read_text()
