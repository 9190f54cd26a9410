"""This module is the command ``kubeballoon``."""

from __future__ import annotations

import argparse
import importlib
import sys

from kubeballoon import __version__, logs
from kubeballoon.cluster.client import ApiError

_COMMANDS = {
    "controller": "kubeballoon.controller.main",
    "agent": "kubeballoon.agent.main",
    "uninstall": "kubeballoon.uninstall.main",
    "replay": "kubeballoon.replay.main",
    "recommend": "kubeballoon.replay.recommend",
}


def main(arguments: list[str] | None = None) -> int:
    """Run one command, and return the exit status.

    An error that the user can mend is one line and exit status 1; argparse exits with 2 for a wrong option.
    """
    parser = argparse.ArgumentParser(
        prog="kubeballoon", description="Divides memory and processors among KubeVirt's VMs."
    )
    parser.add_argument("--version", action="version", version=f"kubeballoon {__version__}")
    parser.add_argument(
        "--log-level",
        default="INFO",
        choices=("DEBUG", "INFO", "WARNING", "ERROR"),
        help="the least severe messages to log (default: %(default)s)",
    )
    parser.add_argument(
        "--log-format",
        default="text",
        choices=("text", "json"),
        help="how messages are written; json: one object in a line, for what collects logs (default: %(default)s)",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    words = sys.argv[1:] if arguments is None else arguments
    named = [word for word in words if word in _COMMANDS][:1]
    for name in named or _COMMANDS:  # only the command that is run is imported: an agent needs no kopf, and so on
        importlib.import_module(_COMMANDS[name]).add_parser(commands)
    options = parser.parse_args(arguments)
    logs.set_up(options.log_level, options.log_format, getattr(options, "node_name", None))
    try:
        status: int = options.run(options)
    except ApiError as error:
        print(f"kubeballoon: {error}", file=sys.stderr)  # noqa: T201 - the user's terminal, not the log
        return 1
    except KeyboardInterrupt:
        return 130
    return status


if __name__ == "__main__":
    sys.exit(main())
