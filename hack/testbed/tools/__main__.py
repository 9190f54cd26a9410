"""`python -m hack.testbed.tools [NAME]`: gets what the tests need, or the one that is named, and prints where it is."""

from __future__ import annotations

import sys

from hack.testbed.controlplane import ControlPlaneError
from hack.testbed.tools import ACTIONLINT, PROMETHEUS, TOOLS

EVERY = (*TOOLS, PROMETHEUS, ACTIONLINT)


def main(names: list[str]) -> int:
    """Get them; the exit status."""
    try:
        for tool in TOOLS if not names else [tool for tool in EVERY if tool.name in names]:
            print(tool.path())
    except ControlPlaneError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
