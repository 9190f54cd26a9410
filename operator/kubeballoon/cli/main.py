# PYTHON_ARGCOMPLETE_OK
"""The ``kubectl-balloon`` command."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import logging
import os
import sys

import argcomplete
from argcomplete.completers import SuppressCompleter

from kubeballoon.cli.arguments import PROGRAM, Exit, parser
from kubeballoon.cli.output import Output, warn


def main(arguments: list[str] | None = None) -> int:
    """Run one command; what a user can mend is said in one line."""
    commands = parser()
    argcomplete.autocomplete(commands, always_complete_options=False, default_completer=SuppressCompleter())
    options = commands.parse_args(arguments)
    if options.command == "release" and options.all == (options.what is not None):
        commands.error("release takes a NODE, a VM or --all")
    logging.basicConfig(level=logging.ERROR, format=f"{PROGRAM}: %(message)s")
    try:
        return _run(options)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output has seen enough; at the exit Python would say that it cannot flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.DONE


def _run(options: argparse.Namespace) -> int:
    if options.command == "completion":
        from kubeballoon.cli import completion  # noqa: PLC0415 - each command imports what it needs, for quick starts

        return completion.run(options.shell)
    from kubeballoon.cluster.client import ApiError  # noqa: PLC0415 - as above: this one takes a second

    try:
        return asyncio.run(_on_cluster(options))
    except ApiError as error:
        warn(f"{PROGRAM}: {error}")
        return Exit.FAILED


async def _on_cluster(options: argparse.Namespace) -> int:
    from kubeballoon.cluster.client import ApiClient  # noqa: PLC0415 - as above

    command = importlib.import_module(f"kubeballoon.cli.{options.command}")
    async with await ApiClient.connect("kubectl-balloon", options.kubeconfig, options.context) as cluster:
        status: int = await command.run(options, cluster, Output.of(options.output))
        sys.stdout.flush()
        return status


if __name__ == "__main__":
    sys.exit(main())
