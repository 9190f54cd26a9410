"""`python -m hack.testbed.prepare` builds everything that tests need, before pytest starts.

Some builds take minutes, and nobody would see the progress that pytest's workers print.
"""

from __future__ import annotations

import argparse
import os
import sys

from hack.testbed.controlplane import KUBECONFIG_VARIABLE, ControlPlaneError
from hack.testbed.controlplane.programs import Programs
from hack.testbed.lab import LabError, image
from hack.testbed.tools import TOOLS, monitoring_crds

_DESCRIPTION = "Builds everything that tests need; what was built before is kept in ~/.cache/kubeballoon."


def main() -> int:
    """Build it all; print one line if that fails. Return the exit status."""
    argparse.ArgumentParser(prog="python -m hack.testbed.prepare", description=_DESCRIPTION).parse_args()
    try:
        if KUBECONFIG_VARIABLE not in os.environ:
            Programs.find()
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
