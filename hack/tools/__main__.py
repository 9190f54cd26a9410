"""`python -m hack.tools`: gets each of the programs, and prints where they are."""

from __future__ import annotations

import sys

from hack.controlplane import ControlPlaneError
from hack.tools import TOOLS


def main() -> int:
    """Get them; the exit status."""
    try:
        for tool in TOOLS:
            print(tool.path())
    except ControlPlaneError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
