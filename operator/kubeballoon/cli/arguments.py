"""This module defines the command line of kubectl-balloon: its commands and options.

Shells load this module for each completion, so it imports nothing that takes long.
"""

from __future__ import annotations

import argparse
import re
from enum import IntEnum
from pathlib import Path

from argcomplete.completers import BaseCompleter, FilesCompleter

from kubeballoon import __version__
from kubeballoon.api.duration import parse_duration
from kubeballoon.options import checked

PROGRAM = "kubectl balloon"
SHELLS = ("bash", "zsh", "fish", "kubectl")


class ExitStatus(IntEnum):
    """ExitStatus is the status with which a command ends; scripts rely on the numbers."""

    DONE = 0
    FAILED = 1
    REFUSED = 2
    ATTENTION = 3
    INCOMPLETE = 4


_EXIT_STATUSES = """\
exit status:
  0  done; nothing needs attention
  1  failed: no access, kubeballoon is not installed, no such VM
  2  wrong usage, or a policy that the API server would refuse
  3  status: something needs attention; diff: the condition of --fail-on is met;
     release: refused, because a node would run short
  4  release: not everything was back in time
"""


class _HelpFormatter(argparse.HelpFormatter):
    """A _HelpFormatter wraps paragraphs to the terminal's width and leaves texts of several lines as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if "\n" in text else super()._fill_text(text, width, indent)


def parser() -> argparse.ArgumentParser:
    """Build the parser of all commands; its result's ``command`` names the module that runs the command."""
    root = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Shows how kubeballoon drives the memory balloons and the processors of KubeVirt's VMs, and gives "
        "memory back.",
        epilog=_EXIT_STATUSES,
        formatter_class=_HelpFormatter,
    )
    root.add_argument("--version", action="version", version=f"kubectl-balloon {__version__}")
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_status(commands)
    _add_top(commands)
    _add_explain(commands)
    _add_diff(commands)
    _add_release(commands)
    _add_completion(commands)
    return root


_Commands = argparse._SubParsersAction  # noqa: SLF001 - argparse has no public name for it


def _add_command(
    commands: _Commands[argparse.ArgumentParser], name: str, summary: str, details: str = ""
) -> argparse.ArgumentParser:
    """Add a command that reads the cluster, with the options that all of them have."""
    command = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}. {details}".strip(),
        epilog=_EXIT_STATUSES,
        formatter_class=_HelpFormatter,
    )
    _complete(
        command.add_argument(
            "--kubeconfig", type=Path, help="kubeconfig file (default: $KUBECONFIG, else the pod's own account)"
        ),
        FilesCompleter(),
    )
    _complete(command.add_argument("--context", help="context of the kubeconfig"), _NameCompleter("contexts"))
    command.add_argument("--as", dest="as_user", metavar="USER", help="user to impersonate, as with kubectl")
    command.add_argument(
        "--as-group",
        dest="as_groups",
        action="append",
        default=[],
        metavar="GROUP",
        help="group to impersonate; repeatable",
    )
    command.add_argument("--as-uid", metavar="UID", help="uid to impersonate")
    command.add_argument("-o", "--output", choices=("json", "yaml", "wide"), help="output format (default: a table)")
    return command


class _NameCompleter(BaseCompleter):
    """A _NameCompleter completes the names of a resource, as `kubeballoon.cli.completion_names` finds them."""

    def __init__(self, resource: str) -> None:
        self._resource = resource

    def __call__(
        self,
        *,
        prefix: str,
        action: argparse.Action,  # noqa: ARG002 - argcomplete passes it by name
        parser: argparse.ArgumentParser,  # noqa: ARG002 - argcomplete passes it by name
        parsed_args: argparse.Namespace,
    ) -> list[str]:
        """Find the names; none if they cannot be had within a few seconds."""
        from kubeballoon.cli import completion_names  # noqa: PLC0415 - commands that complete nothing start sooner

        return completion_names.complete(self._resource, parsed_args, prefix)


def _complete(action: argparse.Action, completer: BaseCompleter) -> None:
    """Have argcomplete complete an argument by ``completer``."""
    action.completer = completer  # type: ignore[attr-defined]  # argcomplete looks for it there


def _add_namespace(command: argparse.ArgumentParser, *, with_all: bool) -> None:
    """Add -n, and -A if the command can show the VMs of all namespaces."""
    group = command.add_mutually_exclusive_group()
    _complete(
        group.add_argument("-n", "--namespace", help="namespace of the VMs (default: the context's)"),
        _NameCompleter("namespaces"),
    )
    if with_all:
        group.add_argument("-A", "--all-namespaces", action="store_true", help="VMs of all namespaces")


def _add_status(commands: _Commands[argparse.ArgumentParser]) -> None:
    _add_command(commands, "status", "show whether all is well, and what needs attention")


def _add_top(commands: _Commands[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "top",
        help="show the memory and processors of nodes or VMs",
        description="Show the memory and processors of nodes or VMs.",
    )
    resources = command.add_subparsers(dest="resource", required=True, metavar="nodes|vms")
    nodes = _add_command(resources, "nodes", "show the memory and processors of each node")
    nodes.add_argument(
        "--sort-by",
        metavar="KEY",
        choices=("state", "name", "available", "reclaimed", "cpu"),
        default="state",
        help="name; state, available or cpu, the worst first; or reclaimed, the most first (default: %(default)s)",
    )
    vms = _add_command(resources, "vms", "show the memory and processors of each VM")
    _add_namespace(vms, with_all=True)
    _complete(vms.add_argument("--node", help="only the VMs of this node"), _NameCompleter("nodes"))
    _complete(
        vms.add_argument("--policy", help="only the VMs governed by a policy of this name, of either kind"),
        _NameCompleter("policies"),
    )
    vms.add_argument(
        "--sort-by",
        metavar="KEY",
        choices=("name", "size", "demand", "reclaimed", "cpu"),
        default="name",
        help="name; or size, demand, reclaimed or cpu, the largest first (default: %(default)s)",
    )


def _add_explain(commands: _Commands[argparse.ArgumentParser]) -> None:
    command = _add_command(
        commands, "explain", "explain why a VM has the memory and processors it has, and why not more or less"
    )
    name = checked(_parse_name, "VM")
    _complete(
        command.add_argument("vm", type=name, metavar="VM", help="NAME, vm/NAME or NAMESPACE/NAME"),
        _NameCompleter("vms"),
    )
    _add_namespace(command, with_all=False)


_NAME = re.compile(r"([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?[a-z0-9]([a-z0-9.-]*[a-z0-9])?")


def _parse_name(text: str) -> str:
    """Check a Kubernetes name that may follow a kind or a namespace and a slash.

    Raises:
        ValueError: the text is no such name.
    """
    if _NAME.fullmatch(text) is None:
        raise ValueError(f"{text!r} is not a name, KIND/NAME or NAMESPACE/NAME")
    return text


def _add_diff(commands: _Commands[argparse.ArgumentParser]) -> None:
    command = _add_command(
        commands,
        "diff",
        "show what policies in files would change, without applying them",
        "The decisions are the controller's, made from the agents' latest reports. Nothing is written.",
    )
    files = command.add_argument(
        "-f",
        "--filename",
        action="append",
        required=True,
        metavar="PATH",
        help="a file of policies, a directory of such files, or - for standard input; may be given more than once",
    )
    _complete(files, FilesCompleter())
    command.add_argument(
        "--prune",
        action="store_true",
        help="treat policies that are in the cluster but not in the files as deleted",
    )
    command.add_argument(
        "--fail-on",
        choices=("overcommit", "change", "never"),
        default="overcommit",
        help="when to exit with 3. overcommit: a node's minimums would exceed its capacity by more than now; change: "
        "anything would change; never (default: %(default)s)",
    )


def _add_release(commands: _Commands[argparse.ArgumentParser]) -> None:
    command = _add_command(
        commands,
        "release",
        "give memory and processors back to one VM, a node's VMs or all VMs, until --undo",
        "The controller withdraws its requests and makes no new ones, the agents deflate the balloons, and the "
        "command waits until everything is back.",
    )
    target = command.add_argument(
        "target",
        nargs="?",
        type=checked(_parse_name, "NODE|VM"),
        metavar="NODE|VM",
        help="node/NAME, vm/NAME, NAMESPACE/NAME, or NAME if only one node or VM has it",
    )
    _complete(target, _NameCompleter("vms-and-nodes"))
    command.add_argument("--all", action="store_true", help="every VM that a policy governs")
    command.add_argument("--undo", action="store_true", help="end the release: policies apply to these VMs again")
    command.add_argument(
        "--wait",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="wait until everything is back (default: yes)",
    )
    command.add_argument(
        "--timeout",
        type=checked(parse_duration, "duration"),
        default="5m",
        help="how long to wait at most (default: %(default)s)",
    )
    command.add_argument(
        "--without-controller",
        action="store_true",
        help="also remove the requests from the VMs directly, for when no controller runs",
    )
    command.add_argument(
        "--force", action="store_true", help="release a node, or all VMs, even if VMs may use more than their node has"
    )
    command.add_argument("--dry-run", action="store_true", help="only say what would be given back, and what changed")
    _add_namespace(command, with_all=False)


def _add_completion(commands: _Commands[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "completion",
        help="print a script for shell completion",
        description="Print a script for shell completion. A shell sources it; for kubectl, which "
        "completes `kubectl balloon`, save it as an executable named kubectl_complete-balloon in PATH.",
    )
    command.add_argument("shell", choices=SHELLS)
