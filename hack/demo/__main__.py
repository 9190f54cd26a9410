"""`python -m hack.demo [SCENE]` plays a scene; the exit status is 0 only if everything that it shows really happened.

The scene "memory":

1. Three guests fill their page caches with files that they do not need, and the node runs short.
2. A policy is applied: memory is reclaimed by the guests' balloons, and the node has memory again.
3. The load of the fourth guest rises: it gets the memory that it needs, which is reclaimed from the others.
4. Its load falls: the others get memory back.
5. The policy is deleted: every guest has its whole memory again.

The other scenes are short:

- "processors": processors are reclaimed from busy guests and given back.
- "unplug": the driver in a guest's kernel gives up a processor.
- "guest-agent": a program in a guest without a balloon reclaims memory.

The scene "cluster" is played on a real KubeVirt cluster of two nodes, which `make demo` makes before if there is none:
memory moves between two VMs of one node, until one of them migrates to the other node.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hack.demo.scene import perform
from hack.demo.scenes import DEFAULT, SCENES
from hack.demo.screen import Screen
from hack.demo.stage import ROOT
from hack.testbed.controlplane import ControlPlaneError
from hack.testbed.lab import LabError


def main() -> int:
    """Play the scene that the command line names; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m hack.demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scene", nargs="?", default=DEFAULT, choices=SCENES)
    parser.add_argument("--output", type=Path, default=ROOT / "build", help="directory for results and logs")
    options = parser.parse_args()
    try:
        return 0 if perform(SCENES[options.scene], Screen(sys.stdout), options.output) else 1
    except (LabError, ControlPlaneError, RuntimeError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
