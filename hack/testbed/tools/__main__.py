"""`python -m hack.testbed.tools [NAME...]` builds the tests' tools, or the named ones, and prints their paths."""

from __future__ import annotations

import argparse
import sys

from hack.testbed.controlplane import ControlPlaneError
from hack.testbed.tools import ACTIONLINT, PROMETHEUS, TOOLS

ALL_TOOLS = (*TOOLS, PROMETHEUS, ACTIONLINT)


def main() -> int:
    """Print the path of each tool, built if needed; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m hack.testbed.tools", description="Builds tools where needed, and prints their paths."
    )
    known = ", ".join(tool.name for tool in ALL_TOOLS)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{known} (default: those that tests need)")
    names = parser.parse_args().names
    unknown = sorted(set(names) - {tool.name for tool in ALL_TOOLS})
    if unknown:
        print(f"error: no such tool: {', '.join(unknown)}; there are {known}", file=sys.stderr)
        return 2
    try:
        for tool in TOOLS if not names else [tool for tool in ALL_TOOLS if tool.name in names]:
            print(tool.path())
    except ControlPlaneError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
