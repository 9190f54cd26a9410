"""`python -m hack.testbed.kubevirt`: makes the cluster, takes it down, or shows what may have gone wrong in it."""

from __future__ import annotations

import argparse
import sys

from hack.testbed.controlplane import ControlPlaneError
from hack.testbed.lab import LabError

from . import checks, cluster

_COMMANDS = {"up": cluster.up, "ensure": cluster.ensure, "down": cluster.down, "diagnose": cluster.diagnose}


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m hack.testbed.kubevirt", description="A KubeVirt cluster.")
    parser.add_argument("command", choices=_COMMANDS)
    try:
        checks.check_name()
        _COMMANDS[parser.parse_args(arguments).command]()
    except (ControlPlaneError, LabError) as error:
        for line in str(error).splitlines():
            print(f"cluster: {line}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
