"""This module is ``kubeballoon recommend``: how far to overcommit, by what VMs did.

The module imports nothing that only the extra ``replay`` installs before the command runs.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

from kubeballoon.api.duration import format_duration, parse_duration
from kubeballoon.core.memory.model import MemoryTerms
from kubeballoon.core.memory.node_state import NodeTerms, UnfitTermsError
from kubeballoon.options import checked
from kubeballoon.replay.main import (
    add_guest_options,
    add_run_options,
    parse_ratios,
    print_progress,
    progress_printer,
    read_node_policy,
    read_policy,
    require_extra,
    run_command,
)
from kubeballoon.replay.source import Source, UsageError, add_source_options, read_source

if TYPE_CHECKING:  # it needs matplotlib
    from kubeballoon.replay.recommend_report import Recommendation

_DAY = 86_400.0
_USUAL_DAYS = 7  # fewer do not show what weekends are like
_MAX_PLACEMENTS = 100
_NOTHING_SAFE = 3  # exit status


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "recommend",
        help="recommend how far to overcommit memory, by what VMs did",
        description="Replays what VMs did at several overcommit ratios, and recommends the highest that keeps nodes "
        "within limits, minimums for policies, other sizes for VMs, and what to set. The exit status is 3 if no ratio "
        "is safe.",
    )
    add_source_options(parser)
    parser.add_argument(
        "--overcommit",
        type=checked(_parse_ratios, "ratios"),
        default=(1.25, 1.5, 1.75, 2.0, 2.5, 3.0),
        metavar="RATIO[,RATIO]",
        help="the ratios to try (default: 1.25,1.5,1.75,2,2.5,3)",
    )
    parser.add_argument(
        "--placements",
        type=checked(_parse_placements, "number"),
        default=3,
        metavar="NUMBER",
        help="how many placements of the VMs on nodes to try at each ratio (default: 3)",
    )
    _add_limit_options(parser)
    parser.add_argument(
        "--node-policy",
        type=Path,
        metavar="FILE",
        help="file with one NodePolicy, which governs all nodes; its migrations are not replayed (default: no "
        "NodePolicy)",
    )
    add_run_options(parser)
    add_guest_options(parser)
    parser.add_argument(
        "--price-per-gib-month",
        type=checked(_parse_price, "number"),
        metavar="PRICE",
        help="what a GiB of a node's memory costs in a month, to say what saved nodes are worth",
    )
    parser.add_argument(
        "-o", "--format", choices=("json", "table"), default="table", help="output format (default: table)"
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a report with plots here, too")
    parser.set_defaults(run=run)


def _add_limit_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what a safe ratio is."""
    parser.add_argument(
        "--max-unmet",
        type=checked(_parse_share, "percentage"),
        default=0.001,
        metavar="PERCENT",
        help="the part of the demand on a node that may stay unmet in a day (default: 0.1%%)",
    )
    parser.add_argument(
        "--max-short",
        type=checked(parse_duration, "duration"),
        default=300.0,
        metavar="DURATION",
        help="for how long of a day a node may be Scarce or Critical (default: 5m)",
    )
    parser.add_argument(
        "--target",
        type=checked(_parse_share, "percentage"),
        default=0.99,
        metavar="PERCENT",
        help="the part of all nodes' days that have to be within these limits (default: 99%%)",
    )


def run(options: argparse.Namespace) -> int:
    """Recommend; the exit status is 1, with one line on stderr, if an option or file cannot be used."""
    return run_command("recommend", _recommend, options)


def _recommend(options: argparse.Namespace) -> int:
    require_extra()
    from kubeballoon.replay import recommend_report  # noqa: PLC0415 - needs the extra, which --help does not

    policy = read_policy(options.policy)
    node_terms, migrations = read_node_policy(options.node_policy)
    source = read_source(options)
    for note in (*source.notes, *_doubts(source)):
        print_progress(note, "recommend")
    if migrations is not None:
        print_progress(f"the migrations of {options.node_policy} are not replayed", "recommend")
    found = _find(options, source, policy, node_terms)
    if options.html is not None:
        recommend_report.write(found, options.html)
    text = json.dumps(found.to_json(), indent=2) if options.format == "json" else recommend_report.text(found)
    print(text)  # noqa: T201 - the command's result
    return 0 if found.best is not None else _NOTHING_SAFE


def _find(options: argparse.Namespace, source: Source, policy: MemoryTerms, node_terms: NodeTerms) -> Recommendation:
    """Try the ratios, and judge them.

    Raises:
        UsageError: a VM fits no node, or the NodePolicy leaves nothing of a node.
    """
    from kubeballoon.replay import ratio_trials  # noqa: PLC0415 - with numpy, as the following
    from kubeballoon.replay.node_workload import GuestAssumptions  # noqa: PLC0415 - with numpy
    from kubeballoon.replay.placement import PlacementError  # noqa: PLC0415 - with numpy
    from kubeballoon.replay.recommend_report import Recommendation  # noqa: PLC0415 - needs the extra
    from kubeballoon.replay.recommendation import Limits, judge_ratios  # noqa: PLC0415 - with the others
    from kubeballoon.replay.vm_sizing import size_advice  # noqa: PLC0415 - with numpy

    history, memory = source.history, source.node_memory
    guests = GuestAssumptions(options.cache_rate, options.guests_with_swap, options.restart_time, options.boot_storm)
    keep_minimum = options.policy is not None
    settings = ratio_trials.TrialSettings(
        memory, policy, keep_minimum, guests, options.placements, options.interval, options.seed, node_terms
    )
    try:
        trials = ratio_trials.try_ratios(
            history, settings, options.overcommit, options.jobs, progress_printer("recommend")
        )
    except UnfitTermsError as error:
        raise UsageError(f"{options.node_policy}: {error}") from None
    except PlacementError as error:
        raise UsageError(str(error)) from None
    limits = Limits(options.max_unmet, options.max_short, options.target)
    without = ratio_trials.nodes_without_overcommitment(history, memory)
    results, sizes, seconds = judge_ratios(trials, limits, without), size_advice(history), history.workload.seconds
    nodes_now, price = len(history.node_memory), options.price_per_gib_month
    return Recommendation(results, limits, seconds, memory, without, nodes_now, sizes, price)


def _doubts(source: Source) -> list[str]:
    """Say why a history is too short to be sure.

    Raises:
        UsageError: it is too short to say anything.
    """
    seconds = source.history.workload.seconds
    if seconds < _DAY:
        raise UsageError(f"the history covers {format_duration(round(seconds))}, and a day at least is needed")
    days = math.floor(seconds / _DAY)
    return [] if days >= _USUAL_DAYS else [f"the history covers {days} days: a week is needed to see what weekends do"]


def _parse_ratios(text: str) -> tuple[float, ...]:
    ratios = parse_ratios(text)
    if min(ratios) < 1:
        raise ValueError(f"{text!r}: a ratio below 1 is no overcommitment")
    return ratios


def _parse_placements(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= _MAX_PLACEMENTS:
        raise ValueError(f"{text!r} is not a number from 1 to {_MAX_PLACEMENTS}")
    return int(text)


def _parse_price(text: str) -> float:
    try:
        price = float(text)
    except ValueError:
        price = math.nan
    if not 0 <= price < math.inf:
        raise ValueError(f"{text!r} is not a price such as 2.5")
    return price


def _parse_share(text: str) -> float:
    """Read a percentage, which may have decimals, as a share."""
    try:
        percent = float(text.removesuffix("%"))
    except ValueError:
        percent = math.nan
    if not 0 <= percent <= 100:  # noqa: PLR2004 - percent
        raise ValueError(f"{text!r} is not a percentage from 0% to 100%")
    return percent / 100
