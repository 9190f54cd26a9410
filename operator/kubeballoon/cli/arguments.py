"""This module defines the command line of kubectl-balloon: its commands and options.

Shells load this module for each completion, so it imports nothing that takes long.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any

from kubeballoon.options import at_least_a_second, checked

PROGRAM = "kubectl balloon"
SHELLS = ("bash", "zsh", "fish", "kubectl")


class ExitStatus(IntEnum):
    """ExitStatus is the status with which a command ends; scripts rely on the numbers."""

    DONE = 0
    FAILED = 1
    REFUSED = 2
    ATTENTION = 3
    INCOMPLETE = 4


class WrongOptionError(Exception):
    """An option has a value that only its command could find wrong; the text is one line for a person."""


_EXIT_STATUSES = """\
exit status:
  0  done; nothing needs attention
  1  failed: no access, kubeballoon is not installed, no such VM or node
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
    root.add_argument("--version", action=_PrintVersion, nargs=0, help="print this program's version and exit")
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_status(commands)
    _add_top(commands)
    _add_explain(commands)
    _add_diff(commands)
    _add_release(commands)
    _add_version(commands)
    _add_completion(commands)
    return root


class _PrintVersion(argparse.Action):
    """A _PrintVersion prints the version, which is looked up only then."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        """Print and exit."""
        from kubeballoon import __version__  # noqa: PLC0415 - takes as long as half of the interpreter's start

        parser.exit(message=f"kubectl-balloon {__version__}\n")


_Commands = argparse._SubParsersAction  # noqa: SLF001 - argparse has no public name for it


def _add_command(
    commands: _Commands[argparse.ArgumentParser],
    name: str,
    summary: str,
    details: str = "",
    aliases: Sequence[str] = (),
    formats: Sequence[str] = ("json", "yaml", "wide"),
    *,
    inherited: bool = False,
) -> argparse.ArgumentParser:
    """Add a command that reads the cluster, with the options that all of them have."""
    command = commands.add_parser(
        name,
        aliases=list(aliases),
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}. {details}".strip(),
        epilog=_EXIT_STATUSES,
        formatter_class=_HelpFormatter,
    )
    command.set_defaults(used_parser=command)
    _add_access(command, inherited=inherited)
    _add_format(command, formats)
    return command


def _add_access(command: argparse.ArgumentParser, *, inherited: bool = False) -> None:
    """Add the options that say how to reach the API server, and as whom.

    Args:
        command: what to add them to.
        inherited: whether the command above has them too; then its values stay where these options are not given.
    """
    _complete_files(
        command.add_argument(
            "--kubeconfig", type=Path, help="kubeconfig file (default: $KUBECONFIG, else the pod's own account)"
        )
    )
    _complete(command.add_argument("--context", help="context of the kubeconfig"), "contexts")
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
    command.add_argument(
        "--request-timeout",
        type=checked(_parse_timeout, "duration"),
        default=10.0,
        metavar="DURATION",
        help="how long to wait for an answer, such as 5s; 0 is for ever (default: 10s)",
    )
    if inherited:
        for action in command._actions:  # noqa: SLF001 - argparse has no public list of a parser's options
            action.default = argparse.SUPPRESS


def _add_format(command: argparse.ArgumentParser, formats: Sequence[str]) -> None:
    """Add -o and --no-headers; ``formats`` are those besides a plain table and jsonpath."""

    def parse(text: str) -> str:
        if text not in formats and not (text.startswith("jsonpath=") and len(text) > len("jsonpath=")):
            raise ValueError(f"{text!r} is not {', '.join(formats)} or jsonpath=TEMPLATE")
        return text

    action = command.add_argument(
        "-o",
        "--output",
        type=checked(parse, "format"),
        metavar="FORMAT",
        help=f"{', '.join(formats)} or jsonpath=TEMPLATE (default: a table)",
    )
    if _COMPLETING:
        action.completer = lambda **_: [*formats, "jsonpath="]  # type: ignore[attr-defined]  # argcomplete looks there
    command.add_argument("--no-headers", action="store_true", help="print tables without their headers")


def _parse_timeout(text: str) -> float | None:
    """Read a duration, or a number of seconds as kubectl takes it, as seconds; None for 0, which means for ever.

    Raises:
        ValueError: the text is neither.
    """
    seconds = float(text) if re.fullmatch("[0-9]{1,6}", text) else _parse_duration(text)
    return seconds or None


def _parse_duration(text: str) -> float:
    from kubeballoon.api.duration import parse_duration  # noqa: PLC0415 - with pydantic, which --help does without

    return parse_duration(text)


_COMPLETING = "_ARGCOMPLETE" in os.environ
"""Whether a shell asks for completions: only then is the library for that imported, and are aliases kept quiet."""


def _complete(action: argparse.Action, resource: str) -> None:
    """Have argcomplete complete an argument by the names of a resource."""
    if not _COMPLETING:
        return

    def complete(*, prefix: str, parsed_args: argparse.Namespace, **_: Any) -> list[str]:
        from kubeballoon.cli import completion_names  # noqa: PLC0415 - options complete sooner without

        return completion_names.complete(resource, parsed_args, prefix)

    action.completer = complete  # type: ignore[attr-defined]  # argcomplete looks for it there


def _complete_files(action: argparse.Action) -> None:
    """Have argcomplete complete an argument by the names of files."""
    if _COMPLETING:
        from argcomplete.completers import FilesCompleter  # noqa: PLC0415 - commands start sooner without

        action.completer = FilesCompleter()  # type: ignore[attr-defined]  # argcomplete looks for it there


def _add_namespace(command: argparse.ArgumentParser, *, with_all: bool) -> None:
    """Add -n, and -A if the command can show the VMs of all namespaces."""
    group = command.add_mutually_exclusive_group()
    _complete(
        group.add_argument("-n", "--namespace", help="namespace of the VMs (default: the context's)"), "namespaces"
    )
    if with_all:
        group.add_argument("-A", "--all-namespaces", action="store_true", help="VMs of all namespaces")


def _add_status(commands: _Commands[argparse.ArgumentParser]) -> None:
    _add_command(commands, "status", "show whether all is well, and what needs attention")


def _add_top(commands: _Commands[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "top",
        help="show the memory and processors of nodes or VMs",
        description="Show the memory and processors of nodes or VMs; with -w, both on a screen that follows them.",
        formatter_class=_HelpFormatter,
    )
    command.set_defaults(used_parser=command, output=None, no_headers=False, live=False)
    _add_access(command)
    command.add_argument(
        "-w", "--watch", dest="live", action="store_true", help="follow the cluster on the screen, until q"
    )
    command.add_argument(
        "--interval",
        type=checked(at_least_a_second, "duration"),
        default=5.0,
        metavar="DURATION",
        help="with -w: how often to read the cluster (default: 5s)",
    )
    resources = command.add_subparsers(dest="resource", metavar="nodes|vms")
    _add_top_nodes(resources)
    _add_top_vms(resources)


_TOP_FORMATS = ("json", "yaml", "name", "wide")


def _add_top_nodes(resources: _Commands[argparse.ArgumentParser]) -> None:
    summary = "show the memory and processors of each node"
    nodes = _add_command(
        resources, "nodes", summary, aliases=() if _COMPLETING else ("node", "no"), formats=_TOP_FORMATS, inherited=True
    )
    nodes.set_defaults(resource="nodes")
    _complete(nodes.add_argument("names", nargs="*", metavar="NAME", help="only these nodes"), "nodes")
    _add_selector(nodes, "of the nodes")
    nodes.add_argument(
        "--sort-by",
        metavar="KEY",
        choices=("state", "name", "available", "reclaimed", "cpu", "memory"),
        default="state",
        help="name; state, available (or memory) or cpu, the worst first; or reclaimed, the most first (default: "
        "%(default)s)",
    )


def _add_top_vms(resources: _Commands[argparse.ArgumentParser]) -> None:
    summary = "show the memory and processors of each VM"
    vms = _add_command(
        resources, "vms", summary, aliases=() if _COMPLETING else ("vm", "vmi"), formats=_TOP_FORMATS, inherited=True
    )
    vms.set_defaults(resource="vms")
    _complete(
        vms.add_argument(
            "names", nargs="*", type=checked(_parse_name, "VM"), metavar="NAME", help="only these VMs, as for explain"
        ),
        "vms",
    )
    _add_namespace(vms, with_all=True)
    _complete(vms.add_argument("--node", help="only the VMs of this node"), "nodes")
    _complete(
        vms.add_argument("--policy", help="only the VMs governed by a policy of this name, of either kind"), "policies"
    )
    _add_selector(vms, "of the VMs")
    vms.add_argument(
        "--sort-by",
        metavar="KEY",
        choices=("trouble", "name", "size", "demand", "reclaimed", "cpu", "memory"),
        help="name; trouble, the worst first; or size, demand, reclaimed, cpu or memory, the largest first (default: "
        "trouble in tables, else name)",
    )


def _add_selector(command: argparse.ArgumentParser, whose: str) -> None:
    command.add_argument(
        "-l", "--selector", metavar="SELECTOR", help=f"labels {whose}, as for kubectl: tier=gold,zone!=b"
    )


def _add_explain(commands: _Commands[argparse.ArgumentParser]) -> None:
    command = _add_command(
        commands, "explain", "explain why a VM has the memory and processors it has, and why not more or less"
    )
    name = checked(_parse_name, "VM")
    _complete(command.add_argument("vm", type=name, metavar="VM", help="NAME, vm/NAME or NAMESPACE/NAME"), "vms")
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
    _complete_files(files)
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
    _complete(target, "vms-and-nodes")
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
        type=checked(_parse_duration, "duration"),
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


def _add_version(commands: _Commands[argparse.ArgumentParser]) -> None:
    command = _add_command(
        commands, "version", "show the versions of this program and of the agents", formats=("json", "yaml")
    )
    command.add_argument("--client", action="store_true", help="only this program's, without asking the cluster")


def _add_completion(commands: _Commands[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "completion",
        help="print a script for shell completion",
        description="Print a script for shell completion. A shell sources it; for kubectl, which "
        "completes `kubectl balloon`, save it as an executable named kubectl_complete-balloon in PATH.",
    )
    command.set_defaults(used_parser=command)
    command.add_argument("shell", choices=SHELLS)
