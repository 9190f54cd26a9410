"""`python -m hack.testbed.tools [NAME...]` builds the tests' tools, or the named ones, and prints their paths."""

from __future__ import annotations

import sys

from hack.testbed.controlplane import ControlPlaneError
from hack.testbed.tools import ACTIONLINT, PROMETHEUS, TOOLS

ALL_TOOLS = (*TOOLS, PROMETHEUS, ACTIONLINT)


def main(names: list[str]) -> int:
    """Print the path of each tool, built if needed; return the exit status."""
    try:
        for tool in TOOLS if not names else [tool for tool in ALL_TOOLS if tool.name in names]:
            print(tool.path())
    except ControlPlaneError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
