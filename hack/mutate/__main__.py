"""This command (`make mutate`) tries random changes of the core, and fails if tests notice too few of them."""

from __future__ import annotations

import argparse
import queue
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import yaml

from hack.mutate.mutants import Mutant, choose
from hack.mutate.trial import BaselineError, Copy

ROOT = Path(__file__).resolve().parents[2]
CORE = Path("operator/kubeballoon/core")
EQUIVALENT = Path(__file__).with_name("equivalent.yaml")
AT_MOST = 0.1  # the share of the mutants that may survive
WORKERS = 2


class ListError(Exception):
    """A ListError says why equivalent.yaml cannot be used."""


def main() -> int:
    """Try as many mutants as the time allows; the exit status is 1 if too many survive, 2 if none could be tried."""
    parser = argparse.ArgumentParser(prog="python -m hack.mutate", description=__doc__)
    parser.add_argument("--mutants", type=int, default=60, help="how many mutants to try (default: 60)")
    parser.add_argument(
        "--minutes", type=float, default=10.0, help="minutes after which no other mutant is tried (default: 10)"
    )
    parser.add_argument("--seed", type=int, help="seed of an earlier run, to repeat its choice")
    parser.add_argument("--only", default="", metavar="TEXT", help="only files with this in their path")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends what runs, as ^C does
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    until = time.monotonic() + 60 * options.minutes
    try:
        equivalent = listed()
        paths = [path for path in _core() if options.only in str(path)]
        draw = random.Random(seed)  # noqa: S311 - repeatable by its seed, and no secret
        chosen = (mutant for mutant in choose(paths, draw) if mutant.key not in equivalent)
        print(f"mutate: {options.mutants} mutants in {options.minutes:g} minutes, seed {seed}", flush=True)
        tried, survivors = _try(list(islice(chosen, options.mutants)), seed, until)
    except (ListError, BaselineError) as error:
        print(f"mutate: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("mutate: interrupted", file=sys.stderr)
        return 130
    return judged(tried, survivors)


def judged(tried: int, survivors: list[Mutant]) -> int:
    """Print how many mutants survived, and return the exit status."""
    if not tried:
        print("mutate: there was no time to try any", file=sys.stderr)
        return 2
    share = len(survivors) / tried
    print(f"mutate: {len(survivors)} of {tried} survived, {share:.1%}; {AT_MOST:.0%} may")
    return 1 if share > AT_MOST else 0


def _core() -> list[Path]:
    return sorted(path.relative_to(ROOT) for path in (ROOT / CORE).rglob("*.py"))


def listed(path: Path = EQUIVALENT) -> set[tuple[str, str]]:
    """Read the keys of the mutants that equivalent.yaml lists because no test can notice them.

    Raises:
        ListError: an entry lacks a field, or the core has no such line any more.
    """
    core = " ".join(" ".join((ROOT / path).read_text().split()) for path in _core())
    keys = set()
    for entry in yaml.safe_load(path.read_text()) or []:
        if not isinstance(entry, dict) or not all(entry.get(name) for name in ("before", "after", "reason")):
            raise ListError(f"{path.name}: before, after and reason are needed: {entry}")
        if entry["before"] not in core:
            raise ListError(f"{path.name}: nothing in the core reads {entry['before']!r}; remove the entry")
        keys.add((entry["before"], entry["after"]))
    return keys


def _try(mutants: list[Mutant], seed: int, until: float) -> tuple[int, list[Mutant]]:
    """Try mutants until the time is over; return how many were tried, and those that survived."""
    with tempfile.TemporaryDirectory(prefix="mutate-") as scratch, ThreadPoolExecutor(WORKERS) as pool:
        first = Copy.made(ROOT, Path(scratch) / "0", seed)
        copies = [first, *(first.again(Path(scratch) / f"{number}") for number in range(1, WORKERS))]
        free: queue.SimpleQueue[Copy] = queue.SimpleQueue()
        for copy in copies:
            free.put(copy)
        over = threading.Event()

        def outcome(mutant: Mutant) -> bool | None:
            copy = free.get()
            try:
                return None if over.is_set() or time.monotonic() >= until else copy.survives(mutant)
            finally:
                free.put(copy)

        try:
            return _counted(zip(mutants, pool.map(outcome, mutants), strict=True))
        finally:
            over.set()
            for copy in copies:
                copy.end()


def _counted(outcomes: Iterator[tuple[Mutant, bool | None]]) -> tuple[int, list[Mutant]]:
    """Count the mutants that were tried, and print and collect those that survived."""
    tried, survivors = 0, []
    for mutant, survived in outcomes:
        tried += survived is not None
        if survived:
            survivors.append(mutant)
            print(f"survived, number {tried}: {mutant}", flush=True)
    return tried, survivors


if __name__ == "__main__":
    sys.exit(main())
