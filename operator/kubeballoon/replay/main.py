"""This module is ``kubeballoon replay``: its options, and what is wrong with them.

The module imports nothing that only the extra ``replay`` installs before the command runs.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from kubeballoon import manifests
from kubeballoon.api.duration import parse_duration
from kubeballoon.api.quantity import parse_quantity
from kubeballoon.api.v1alpha1 import MemoryPolicy, NodePolicy
from kubeballoon.core.memory.model import MemoryTerms
from kubeballoon.core.memory.node_state import NodeTerms, UnfitTermsError
from kubeballoon.core.migration import MigrationTerms
from kubeballoon.governance.loaded_policy import load_memory_policy
from kubeballoon.governance.node_policies import load_node_policy
from kubeballoon.options import at_least_a_second, checked
from kubeballoon.replay.source import UsageError, add_source_options, read_source
from kubeballoon.vocabulary import Mode

_PROGRESS_STEP = 5  # percent
_Policy = TypeVar("_Policy", MemoryPolicy, NodePolicy)


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "replay",
        help="replay recorded memory of VMs, to size a cluster",
        description="Replays recorded memory of VMs, from files or from a Prometheus' history, and compares what a "
        "policy achieves with a static split, with no balloon and with the optimum.",
    )
    add_source_options(parser)
    parser.add_argument(
        "--overcommit",
        type=checked(parse_ratios, "ratios"),
        default=(2.0,),
        metavar="RATIO[,RATIO]",
        help="how many times a node's memory the sizes of its VMs sum up to (default: 2)",
    )
    parser.add_argument(
        "--placement",
        choices=("fill", "scheduler"),
        default="fill",
        help="how VMs are placed: fill one node after another, or as Kubernetes' scheduler does, by what their pods "
        "request (default: fill)",
    )
    parser.add_argument(
        "--node-policy",
        type=Path,
        metavar="FILE",
        help="file with one NodePolicy, which governs all nodes; if its spec.migration is not Off, its migrations are "
        "replayed, too (default: no NodePolicy)",
    )
    add_run_options(parser)
    add_guest_options(parser)
    _add_output_options(parser)
    parser.set_defaults(run=run)


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how the traces are replayed."""
    parser.add_argument(
        "--policy", type=Path, metavar="FILE", help="file with one MemoryPolicy (default: a MemoryPolicy's defaults)"
    )
    parser.add_argument(
        "--interval",
        type=checked(at_least_a_second, "duration"),
        default=10.0,
        help="time between two rounds of decisions (default: 10s)",
    )
    parser.add_argument(
        "--seed", type=int, default=1, help="seed of the random speeds of the guests' balloons (default: 1)"
    )
    parser.add_argument(
        "--jobs",
        type=checked(_parse_jobs, "number"),
        default=os.cpu_count() or 1,
        help="number of processes to run at once (default: one per core)",
    )


def add_guest_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what traces do not tell of guests."""
    parser.add_argument(
        "--cache-rate",
        type=checked(parse_quantity, "quantity"),
        metavar="QUANTITY",
        help="bytes a second by which each guest's page cache grows while it has room (default: what the trace says "
        "that the VM read and wrote; 1Mi where it does not say)",
    )
    parser.add_argument(
        "--guests-with-swap",
        type=checked(_parse_percent, "percentage"),
        default=1.0,
        metavar="PERCENT",
        help="the part of the guests that have swap space (default: 100%%)",
    )
    parser.add_argument(
        "--restart-time",
        type=checked(at_least_a_second, "duration"),
        default=300.0,
        metavar="DURATION",
        help="after which a VM runs again that was killed because its node ran out of memory (default: 5m)",
    )
    parser.add_argument(
        "--boot-storm",
        type=checked(parse_duration, "duration"),
        metavar="DURATION",
        help="time since the start at which all VMs boot at once and touch all of their memory (default: never)",
    )


def _add_output_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what is written of the result."""
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="directory for report.html and plots (default: none is written)"
    )
    parser.add_argument("--format", choices=("json", "table"), default="table", help="output format (default: table)")


def run(options: argparse.Namespace) -> int:
    """Replay the traces; the exit status is 1, with one line on stderr, if an option or file cannot be used."""
    return run_command("replay", _replay, options)


def run_command(name: str, command: Callable[[argparse.Namespace], int], options: argparse.Namespace) -> int:
    """Run a command of this package, and print in one line what of its options or files cannot be used."""
    try:
        return command(options)
    except UsageError as error:
        message = str(error)
    except OSError as error:
        message = f"{error.filename}: {error.strerror}"
    print(f"kubeballoon {name}: {message}", file=sys.stderr)  # noqa: T201 - a command talks to its user
    return 1


def read_policy(path: Path | None) -> MemoryTerms:
    """Read the policy of a manifest, a MemoryPolicy with all defaults without one; it is enforced in any case.

    Raises:
        UsageError: the file is invalid, does not hold exactly one MemoryPolicy, or that guarantees what pods request.
    """
    if path is None:
        policy = MemoryPolicy.model_validate({"metadata": {"name": "default"}, "spec": {"selector": {}}})
        return load_memory_policy(policy).terms
    terms = load_memory_policy(_only_policy(path, MemoryPolicy, "MemoryPolicies")).terms
    if terms.minimum.pod_request:
        raise UsageError(f"{path}: traces do not say what pods request: give min as a percentage or a quantity")
    return replace(terms, mode=Mode.ENFORCE)


def read_node_policy(path: Path | None) -> tuple[NodeTerms, MigrationTerms | None]:
    """Read the NodePolicy of a manifest, and what it says of migrations; these are enforced unless they are off.

    Raises:
        UsageError: the file is invalid, or does not hold exactly one NodePolicy.
    """
    if path is None:
        return NodeTerms(), None
    loaded = load_node_policy(_only_policy(path, NodePolicy, "NodePolicies"))
    return loaded.terms, loaded.migrations


def _only_policy(path: Path, kind: type[_Policy], plural: str) -> _Policy:
    """Read the one policy of a kind from a manifest.

    Raises:
        UsageError: the file is invalid, or holds none or several.
    """
    try:
        policies = [policy for policy in manifests.read_manifests([str(path)]) if isinstance(policy, kind)]
    except manifests.RefusedError as error:
        raise UsageError(error.lines[0]) from None
    if len(policies) != 1:
        raise UsageError(f"{path}: holds {len(policies)} {plural}, and one is needed")
    return policies[0]


def _replay(options: argparse.Namespace) -> int:
    require_extra()
    # Imported only here, since the other commands, and --help, work without the extra.
    from kubeballoon.replay import comparison, report  # noqa: PLC0415
    from kubeballoon.replay.node_workload import GuestAssumptions  # noqa: PLC0415
    from kubeballoon.replay.placement import Placement, PlacementError  # noqa: PLC0415 - with numpy

    policy = read_policy(options.policy)
    node_terms, migrations = read_node_policy(options.node_policy)
    source = read_source(options)
    for note in source.notes:
        print_progress(note)
    if options.output is not None:
        options.output.mkdir(parents=True, exist_ok=True)
    guests = GuestAssumptions(options.cache_rate, options.guests_with_swap, options.restart_time, options.boot_storm)
    placement = Placement(options.placement)
    settings = comparison.ReplaySettings(
        source.node_memory, policy, options.interval, options.seed, guests, placement, node_terms, migrations
    )
    try:
        results = comparison.compare_strategies(
            source.history.workload, settings, options.overcommit, options.jobs, progress_printer()
        )
    except UnfitTermsError as error:
        raise UsageError(f"{options.node_policy}: {error}") from None
    except PlacementError as error:
        raise UsageError(str(error)) from None
    if options.output is not None:
        report.write(results, options.output)
    runs = [run.to_json() for run in results.runs]
    text = json.dumps({"runs": runs}, indent=2) if options.format == "json" else report.table(runs)
    print(text)  # noqa: T201 - the command's result
    return 0


def require_extra() -> None:
    """Find out whether the extra ``replay`` is installed.

    Raises:
        UsageError: it is not.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError("needs matplotlib: pip install 'kubeballoon[replay]'")


def progress_printer(command: str = "replay") -> Callable[[float], None]:
    """Make a function that prints which share of the work is done, 0 to 1, when it has grown by some percent."""
    printed = 0

    def report(share: float) -> None:
        nonlocal printed
        percent = int(100 * share) // _PROGRESS_STEP * _PROGRESS_STEP
        if percent > printed:
            printed = percent
            print_progress(f"{percent} % done", command)

    return report


def print_progress(text: str, command: str = "replay") -> None:
    """Print what the user should know beside the result."""
    print(f"{command}: {text}", file=sys.stderr, flush=True)  # noqa: T201 - stdout is for the result


def parse_ratios(text: str) -> tuple[float, ...]:
    """Read ratios such as "1.5,2".

    Raises:
        ValueError: the text is not a list of ratios, or one is out of bounds.
    """
    try:
        ratios = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{text!r} is not a list of ratios such as 1.5,2") from None
    if not all(0.1 <= ratio <= 100 for ratio in ratios):  # noqa: PLR2004 - the message names the bounds
        raise ValueError(f"{text!r}: ratios are from 0.1 to 100")
    return ratios


def _parse_percent(text: str) -> float:
    number = text.removesuffix("%")
    if not number.isdecimal() or int(number) > 100:  # noqa: PLR2004 - percent
        raise ValueError(f"{text!r} is not a percentage from 0% to 100%")
    return int(number) / 100


def _parse_jobs(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{text!r} is not a positive number")
    return int(text)
