"""``kubeballoon replay``: the options, and what is wrong with them. Needs nothing of the extra until it runs."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from kubeballoon import manifests
from kubeballoon.api.quantity import parse_quantity
from kubeballoon.api.v1alpha1 import MemoryPolicy
from kubeballoon.core.memory.model import MemoryTerms
from kubeballoon.governance.loaded_policy import load_memory_policy
from kubeballoon.options import at_least_a_second, checked
from kubeballoon.vocabulary import Mode

_LEAST_NODE = 1 << 30
_STEP = 5  # percent


class UsageError(Exception):
    """What the user gave cannot be used; the message is one line."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "replay",
        help="replay recorded VM memory, to size a cluster by",
        description="Replays traces of VMs' memory under a policy, a static split, no balloon and the optimum.",
    )
    parser.add_argument(
        "traces",
        type=Path,
        metavar="TRACES",
        help="a directory of one CSV a VM: GWA-T-12 Bitbrains, or with the columns seconds,size_bytes,used_bytes",
    )
    parser.add_argument(
        "--node-memory", type=checked(_node_memory, "quantity"), required=True, metavar="QUANTITY", help="of each node"
    )
    parser.add_argument(
        "--overcommit",
        type=checked(_ratios, "ratios"),
        default=(2.0,),
        metavar="RATIO[,RATIO]",
        help="VMs' sizes to nodes' memory (default: 2)",
    )
    parser.add_argument("--policy", type=Path, metavar="FILE", help="a MemoryPolicy (default: its defaults)")
    parser.add_argument(
        "--interval",
        type=checked(at_least_a_second, "duration"),
        default=10.0,
        help="between two rounds (default: 10s)",
    )
    parser.add_argument("--seed", type=int, default=1, help="of what is drawn at random (default: 1)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="write report.html and plots there")
    parser.add_argument("--format", choices=("json", "table"), default="table", help="of stdout (default: table)")
    parser.add_argument(
        "--jobs", type=checked(_jobs, "number"), default=os.cpu_count() or 1, help="processes (default: one a core)"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Simulate; 1 with one line on stderr when the input cannot be used."""
    try:
        return _replay(options)
    except UsageError as error:
        said = str(error)
    except OSError as error:
        said = f"{error.filename}: {error.strerror}"
    print(f"kubeballoon replay: {said}", file=sys.stderr)  # noqa: T201 - a command's own last words
    return 1


def read_policy(path: Path | None) -> MemoryTerms:
    """The policy of a manifest; one that only observes is simulated as if it were enforced.

    Raises:
        UsageError: it is not one MemoryPolicy.
    """
    if path is None:
        policy = MemoryPolicy.model_validate({"metadata": {"name": "default"}, "spec": {"selector": {}}})
        return load_memory_policy(policy).terms
    try:
        found = [policy for policy in manifests.read([str(path)]) if isinstance(policy, MemoryPolicy)]
    except manifests.RefusedError as error:
        raise UsageError(error.lines[0]) from None
    if len(found) != 1:
        raise UsageError(f"{path}: holds {len(found)} MemoryPolicies, and one is needed")
    return replace(load_memory_policy(found[0]).terms, mode=Mode.ENFORCE)


def _replay(options: argparse.Namespace) -> int:
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError("needs matplotlib: pip install 'kubeballoon[replay]'")
    # Only now: the other commands, and --help, run without the extra.
    from kubeballoon.replay import comparison, report  # noqa: PLC0415
    from kubeballoon.replay.traces import TraceError, read  # noqa: PLC0415

    policy = read_policy(options.policy)
    try:
        workload = read(options.traces)
    except TraceError as error:
        raise UsageError(str(error)) from None
    if workload.skipped:
        _say(f"{len(workload.skipped)} of the VMs recorded nothing and are left out")
    if options.output is not None:
        options.output.mkdir(parents=True, exist_ok=True)
    setting = comparison.ReplaySettings(options.node_memory, policy, options.interval, options.seed)
    results = comparison.compare_strategies(workload, setting, options.overcommit, options.jobs, _progress())
    if options.output is not None:
        report.write(results, options.output)
    runs = [run.to_json() for run in results.runs]
    print(json.dumps({"runs": runs}, indent=2) if options.format == "json" else report.table(runs))  # noqa: T201
    return 0


def _progress() -> Callable[[float], None]:
    """Says how much is done, in steps of some percent."""
    said = 0

    def tell(share: float) -> None:
        nonlocal said
        percent = int(100 * share) // _STEP * _STEP
        if percent > said:
            said = percent
            _say(f"{percent} % done")

    return tell


def _say(text: str) -> None:
    print(f"replay: {text}", file=sys.stderr, flush=True)  # noqa: T201 - stdout is for the result


def _node_memory(text: str) -> int:
    memory = parse_quantity(text)
    if memory < _LEAST_NODE:
        raise ValueError(f"{text!r} is less than the 1Gi a node needs")
    return memory


def _ratios(text: str) -> tuple[float, ...]:
    try:
        ratios = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{text!r} is not a list of ratios such as 1.5,2") from None
    if not all(0.1 <= ratio <= 100 for ratio in ratios):  # noqa: PLR2004 - said in the message
        raise ValueError(f"{text!r}: ratios are from 0.1 to 100")
    return ratios


def _jobs(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{text!r} is not a positive number")
    return int(text)
