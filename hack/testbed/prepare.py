"""Makes what tests need and what takes long, before they start: the progress of their workers would not be seen."""

from __future__ import annotations

import os
import sys

from hack.testbed.controlplane import KUBECONFIG_VARIABLE, ControlPlaneError, build
from hack.testbed.controlplane.assets import Assets
from hack.testbed.lab import LabError, image
from hack.testbed.tools import TOOLS, monitoring_crds


def main() -> int:
    """Make it, or say in one line why that cannot be."""
    try:
        if KUBECONFIG_VARIABLE not in os.environ:
            Assets.find()
        build.kubevirt_crds()
        for packages in ((), image.PYTHON_PACKAGES):
            image.build(packages)
        for tool in TOOLS:
            tool.path()
        monitoring_crds()
    except (ControlPlaneError, LabError) as error:
        print(f"prepare: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
