# PYTHON_ARGCOMPLETE_OK
"""This module is the entry point of kubectl-balloon: it parses the command line and runs one command."""

from __future__ import annotations

import argparse
import gc
import importlib
import logging
import os
import sys
from collections.abc import Sequence

from kubeballoon.cli.arguments import PROGRAM, ExitStatus, WrongOptionError, parser
from kubeballoon.cli.output import Output, warn
from kubeballoon.cli.resource_aliases import VM_ALIASES
from kubeballoon.cluster.errors import ApiError

_OBJECTS_PER_COLLECTION = 100_000  # some 10 MiB


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit status; an error that the user can mend is printed as one line."""
    # A command ends before much garbage gathers, and looking for it costs a twentieth of the processor time.
    gc.set_threshold(_OBJECTS_PER_COLLECTION)
    options = parse(arguments)
    logging.basicConfig(level=logging.ERROR, format=f"{PROGRAM}: %(message)s")
    try:
        return _run(options)
    except ApiError as error:
        warn(f"{PROGRAM}: {error}")
        return ExitStatus.FAILED
    except KeyboardInterrupt:
        return 130  # a shell's status of a command that SIGINT ended
    except BrokenPipeError:
        # The reader, `head` for example, has closed the pipe. Python flushes stdout once more when it exits, and would
        # complain: let that go to /dev/null.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitStatus.DONE


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse a command line; wrong usage ends the program, with the usage of the command that is meant."""
    commands = parser()
    if "_ARGCOMPLETE" in os.environ:
        _complete(commands)
    options, unknown = commands.parse_known_args(arguments)
    command: argparse.ArgumentParser = options.used_parser
    if unknown:
        command.error(f"unrecognized arguments: {' '.join(unknown)}")
    if options.command == "release" and options.all == (options.target is not None):
        command.error("release takes a NODE, a VM or --all")
    if options.command == "top" and (options.resource is None) is not options.live:
        command.error("top takes nodes or vms, or -w alone")
    for name in _vm_names(options):
        before, slash, _ = name.partition("/")
        if slash and before not in VM_ALIASES and options.namespace not in (None, before):
            command.error(f"{name} is not in the namespace {options.namespace} that -n names")
    return options


def _vm_names(options: argparse.Namespace) -> Sequence[str]:
    """List the arguments that name a VM, perhaps with its namespace."""
    if options.command == "explain":
        return [options.vm]
    if options.command == "top" and options.resource == "vms":
        return list(options.names)
    is_vm = options.command == "release" and options.target is not None and not options.target.startswith("node")
    return [options.target] if is_vm else []


def _complete(commands: argparse.ArgumentParser) -> None:
    """Print completions, and exit, if that is what a shell has started the program for."""
    import argcomplete  # noqa: PLC0415 - commands start sooner without
    from argcomplete.completers import SuppressCompleter  # noqa: PLC0415 - commands start sooner without

    argcomplete.autocomplete(commands, always_complete_options=False, default_completer=SuppressCompleter())


def _run(options: argparse.Namespace) -> int:
    if options.command == "completion":
        from kubeballoon.cli import completion  # noqa: PLC0415 - a command starts soon if it imports only what it needs

        return completion.run(options.shell)
    from kubeballoon.cluster.impersonation import Impersonation  # noqa: PLC0415 - --help and completion do without
    from kubeballoon.cluster.reader import ApiReader  # noqa: PLC0415 - --help and completion do without

    output = Output.to_stdout(options.output, headers=not options.no_headers)
    live = options.command == "top" and options.live
    command = importlib.import_module(f"kubeballoon.cli.{'live' if live else options.command}")
    if options.command == "version" and options.client:
        return int(command.run_without_cluster(output))
    user = Impersonation(options.as_user, options.as_uid, options.as_groups)
    with ApiReader.connect(options.kubeconfig, options.context, user, options.request_timeout) as reader:
        try:
            status: int = command.run(options, reader, output)
        except WrongOptionError as error:
            options.used_parser.error(str(error))
        sys.stdout.flush()  # here, where main handles a broken pipe
        return status


if __name__ == "__main__":
    sys.exit(main())
