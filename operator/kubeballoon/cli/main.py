# PYTHON_ARGCOMPLETE_OK
"""This module is the entry point of kubectl-balloon: it parses the command line and runs one command."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import logging
import os
import sys

import argcomplete
from argcomplete.completers import SuppressCompleter

from kubeballoon.cli.arguments import PROGRAM, ExitStatus, parser
from kubeballoon.cli.output import Output, warn


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit status; an error that the user can mend is printed as one line."""
    commands = parser()
    argcomplete.autocomplete(commands, always_complete_options=False, default_completer=SuppressCompleter())
    options = commands.parse_args(arguments)
    if options.command == "release" and options.all == (options.target is not None):
        commands.error("release takes a NODE, a VM or --all")
    logging.basicConfig(level=logging.ERROR, format=f"{PROGRAM}: %(message)s")
    try:
        return _run(options)
    except KeyboardInterrupt:
        return 130  # a shell's status of a command that SIGINT ended
    except BrokenPipeError:
        # The reader, `head` for example, has closed the pipe. Python flushes stdout once more when it exits, and would
        # complain: let that go to /dev/null.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitStatus.DONE


def _run(options: argparse.Namespace) -> int:
    if options.command == "completion":
        from kubeballoon.cli import completion  # noqa: PLC0415 - a command starts soon if it imports only what it needs

        return completion.run(options.shell)
    from kubeballoon.cluster.client import ApiError  # noqa: PLC0415 - takes a second, and completion does without

    try:
        return asyncio.run(_run_on_cluster(options))
    except ApiError as error:
        warn(f"{PROGRAM}: {error}")
        return ExitStatus.FAILED


async def _run_on_cluster(options: argparse.Namespace) -> int:
    from kubeballoon.cluster.client import ApiClient  # noqa: PLC0415 - takes a second, and --help does without
    from kubeballoon.cluster.impersonation import Impersonation  # noqa: PLC0415 - takes a second, and --help does without

    command = importlib.import_module(f"kubeballoon.cli.{options.command}")
    user = Impersonation(options.as_user, options.as_uid, options.as_groups)
    async with await ApiClient.connect("kubectl-balloon", options.kubeconfig, options.context, user) as client:
        status: int = await command.run(options, client, Output.to_stdout(options.output))
        sys.stdout.flush()  # here, where main handles a broken pipe
        return status


if __name__ == "__main__":
    sys.exit(main())
