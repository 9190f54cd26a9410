"""`python -m hack.testbed.controlplane` builds the control plane, or runs it until it is interrupted."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

from . import KUBECONFIG_VARIABLE, ControlPlaneError, build, open_control_plane
from .programs import DIRECTORY_VARIABLE

_CHECK_SECONDS = 2.0

_EPILOG = f"""\
The control plane is the first of: the cluster of --kubeconfig or {KUBECONFIG_VARIABLE}; the programs in the
directory {DIRECTORY_VARIABLE} (envtest's); what was built before ({build.cache_directory()}); what is
built now from Go modules, which takes minutes, with the go on PATH or, if that is too old, with PyPI's.
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command, and return its exit status."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # SIGTERM ends it in the same order as ^C
    try:
        if options.command == "build":
            _build()
        else:
            _up(options)
    except ControlPlaneError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m hack.testbed.controlplane",
        description="A real Kubernetes API for development, without a container engine.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build", help="build it now, and print its path")
    up = commands.add_parser("up", help="run it until it is interrupted, and print the path of its kubeconfig")
    up.add_argument("--kubeconfig", type=Path, help="use this cluster; start nothing")
    up.add_argument("--dir", type=Path, help="new or empty directory for data and logs, kept (default: temporary)")
    up.add_argument("--bare", action="store_true", help="without KubeVirt's CRDs")
    return parser


def _build() -> None:
    print(build.control_plane())


def _up(options: argparse.Namespace) -> None:
    with suppress(KeyboardInterrupt), open_control_plane(options.kubeconfig, options.dir) as control_plane:
        if not options.bare:
            control_plane.install_kubevirt_crds()
        print(control_plane.kubeconfig, flush=True)
        print(f"ready; kubectl is {control_plane.kubectl_path}; interrupt (^C) to end", file=sys.stderr)
        while True:
            time.sleep(_CHECK_SECONDS)
            control_plane.check()


if __name__ == "__main__":
    sys.exit(main())
