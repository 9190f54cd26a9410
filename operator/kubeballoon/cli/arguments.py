"""The command line of kubectl-balloon, without anything that takes long to import: shells complete with it."""

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


class Exit(IntEnum):
    """How a command ends."""

    DONE = 0
    FAILED = 1
    REFUSED = 2
    ATTENTION = 3
    INCOMPLETE = 4


_EPILOG = """\
exit status:
  0  done; nothing needs attention
  1  failed: no access, kubeballoon is not installed, no such VM
  2  wrong usage, or a policy that the API server would refuse
  3  status: something needs attention; diff: what --fail-on names would happen
  4  release: not all memory was back in time
"""


def parser() -> argparse.ArgumentParser:
    """All commands; ``command`` names the module that runs it."""
    top = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Looks at how kubeballoon drives the memory balloons, and the processors, of KubeVirt's VMs.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"kubectl-balloon {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _status(commands)
    _top(commands)
    _explain(commands)
    _diff(commands)
    _release(commands)
    _completion(commands)
    return top


_Commands = argparse._SubParsersAction  # noqa: SLF001 - argparse has no public name for it


def _command(
    commands: _Commands[argparse.ArgumentParser], name: str, about: str, details: str = ""
) -> argparse.ArgumentParser:
    """One command, with the options that all have."""
    command = commands.add_parser(
        name,
        help=about,
        description=f"{about[0].upper()}{about[1:]}. {details}".strip(),
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _complete(
        command.add_argument(
            "--kubeconfig", type=Path, help="kubeconfig (default: $KUBECONFIG, else the pod's account)"
        ),
        FilesCompleter(),
    )
    _complete(command.add_argument("--context", help="the kubeconfig's context to use"), _Names("contexts"))
    command.add_argument("-o", "--output", choices=("json", "yaml", "wide"), help="output format (default: a table)")
    return command


class _Names(BaseCompleter):
    """Completes names of a kind of thing; see `kubeballoon.cli.names`."""

    def __init__(self, thing: str) -> None:
        self._thing = thing

    def __call__(
        self,
        *,
        prefix: str,
        action: argparse.Action,  # noqa: ARG002 - argcomplete gives it
        parser: argparse.ArgumentParser,  # noqa: ARG002 - as above
        parsed_args: argparse.Namespace,
    ) -> list[str]:
        """The names as far as they can be had soon."""
        from kubeballoon.cli import completion_names  # noqa: PLC0415 - only for who completes

        return completion_names.complete(self._thing, parsed_args, prefix)


def _complete(action: argparse.Action, completer: BaseCompleter) -> None:
    action.completer = completer  # type: ignore[attr-defined]  # where argcomplete looks for it


def _namespaced(command: argparse.ArgumentParser, *, every: bool) -> None:
    group = command.add_mutually_exclusive_group()
    _complete(
        group.add_argument("-n", "--namespace", help="namespace of the VMs (default: the context's)"),
        _Names("namespaces"),
    )
    if every:
        group.add_argument("-A", "--all-namespaces", action="store_true", help="VMs of all namespaces")


def _status(commands: _Commands[argparse.ArgumentParser]) -> None:
    _command(commands, "status", "say whether all is well: nodes, policies, VMs, and what needs attention")


_ORDER = "what comes first: by name, else the worst or the most (default: %(default)s)"


def _top(commands: _Commands[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "top", help="show the memory and processors of nodes or VMs", description="Show memory and processors."
    )
    things = command.add_subparsers(dest="thing", required=True, metavar="nodes|vms")
    nodes = _command(things, "nodes", "show the memory and processors of each node, the shortest of memory first")
    nodes.add_argument(
        "--sort-by", choices=("state", "name", "available", "reclaimed", "cpu"), default="state", help=_ORDER
    )
    vms = _command(things, "vms", "show the memory and processors of each VM")
    _namespaced(vms, every=True)
    _complete(vms.add_argument("--node", help="only the VMs of this node"), _Names("nodes"))
    _complete(
        vms.add_argument("--policy", help="only the VMs that the policy of this name governs, of either kind"),
        _Names("policies"),
    )
    vms.add_argument("--sort-by", choices=("name", "size", "demand", "reclaimed", "cpu"), default="name", help=_ORDER)


def _explain(commands: _Commands[argparse.ArgumentParser]) -> None:
    command = _command(
        commands, "explain", "say why a VM has the memory and processors it has, and why not more, nor less"
    )
    name = checked(_name, "VM")
    _complete(
        command.add_argument("vm", type=name, metavar="VM", help="NAME, vm/NAME or NAMESPACE/NAME"), _Names("vms")
    )
    _namespaced(command, every=False)


_NAME = re.compile(r"([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?[a-z0-9]([a-z0-9.-]*[a-z0-9])?")


def _name(text: str) -> str:
    """A name as Kubernetes has them, and perhaps its kind or namespace before it."""
    if _NAME.fullmatch(text) is None:
        raise ValueError(f"{text!r} is not a name, KIND/NAME or NAMESPACE/NAME")
    return text


def _diff(commands: _Commands[argparse.ArgumentParser]) -> None:
    command = _command(
        commands,
        "diff",
        "say what policies in files would change, without applying them",
        "Decides with the cluster's present reports. Nothing is written.",
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
        "--prune", action="store_true", help="the files hold all policies: those in the cluster only would be deleted"
    )
    command.add_argument(
        "--fail-on",
        choices=("overcommit", "change", "never"),
        default="overcommit",
        help="end with 3 when a node's guaranteed minimums would exceed what it has by more than now, or when "
        "anything would change (default: %(default)s)",
    )


def _release(commands: _Commands[argparse.ArgumentParser]) -> None:
    command = _command(
        commands,
        "release",
        "give the memory of a node's VMs, of one VM or of all back, and keep it so",
        "The controller takes its requests off, the agents let the balloons go; waits until the memory is back.",
    )
    what = command.add_argument(
        "what",
        nargs="?",
        type=checked(_name, "NODE|VM"),
        metavar="NODE|VM",
        help="node/NAME, vm/NAME, NAMESPACE/NAME, or NAME if only one has it",
    )
    _complete(what, _Names("vms-and-nodes"))
    command.add_argument("--all", action="store_true", help="all VMs that any policy governs")
    command.add_argument("--undo", action="store_true", help="let kubeballoon drive these balloons again")
    command.add_argument(
        "--wait",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="wait until the memory is back (default: yes)",
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
        help="take the requests off the VMs from here too: for when no controller runs",
    )
    _namespaced(command, every=False)


def _completion(commands: _Commands[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "completion",
        help="print a shell's completion of this command",
        description="Print completion code: for a shell to source, or (kubectl) an executable to save as "
        "kubectl_complete-balloon in PATH, by which kubectl completes `kubectl balloon`.",
    )
    command.add_argument("shell", choices=SHELLS)
