"""Run the benchmarks, print a table of each and write build/bench.json; fail if a limit is exceeded."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from hack.bench import (
    agent,
    allocation,
    cli,
    clock,
    contention,
    controller,
    fleet,
    hostile,
    ideal_migrations,
    migrations,
    recommend,
    recorded,
    replay,
)
from hack.bench.limits import Rows, exceeded

BENCHMARKS: dict[str, Callable[[], Rows]] = {
    "allocation": allocation.rows,
    "replay": replay.rows,
    "contention": contention.rows,
    "agent": agent.measure_cost,
    "crowded": agent.measure_crowded,
    "reaction": agent.measure_reaction,
    "cli": cli.measure,
    "controller": controller.rows,
    "hostile": hostile.measure,
    "fleet": fleet.measure,
}


class TraceBenchmark(Protocol):
    """A TraceBenchmark is a module whose benchmark needs recorded traces."""

    def rows(self, directory: Path) -> Rows:
        """Measure, with the traces of a directory."""


RECORDED = "recorded"
"""The benchmark that is run with traces if none is named."""

WITH_TRACES: dict[str, TraceBenchmark] = {
    RECORDED: recorded,
    "migrations": migrations,
    "ideal-migrations": ideal_migrations,
    "recommend": recommend,
    "clock": clock,
}


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmarks that are named, or all."""
    parser = argparse.ArgumentParser(prog="python -m hack.bench", description=__doc__)
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"benchmarks to run: {', '.join(BENCHMARKS)} (default: all); with --traces: {', '.join(WITH_TRACES)} "
        f"(default: {RECORDED})",
    )
    parser.add_argument(
        "--traces",
        type=Path,
        metavar="DIR",
        help="directory with recorded traces, as `kubeballoon replay` reads them: run only benchmarks of these",
    )
    parser.add_argument("--output", type=Path, default=Path("build/bench.json"))
    options = parser.parse_args(arguments)
    known = list(BENCHMARKS if options.traces is None else WITH_TRACES)
    unknown = set(options.names) - set(known)
    if unknown:
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    names = options.names or (known if options.traces is None else [RECORDED])
    results: dict[str, Rows] = {}
    excesses: list[str] = []
    for name in names:
        results[name] = BENCHMARKS[name]() if options.traces is None else WITH_TRACES[name].rows(options.traces)
        print(f"{name}\n{table(results[name])}\n", flush=True)
        excesses += exceeded(name, results[name])
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    for excess in excesses:
        print(f"LIMIT EXCEEDED: {excess}", file=sys.stderr)
    return 1 if excesses else 0


def table(rows: Rows) -> str:
    """Format rows as aligned text; a cell is empty if its row has no such figure."""
    head = list(dict.fromkeys(name for row in rows for name in row))
    cells = [head, *([_cell(row.get(name, "")) for name in head] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in cells)


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
