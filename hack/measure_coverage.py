"""Run tests under coverage.py; print a table by package, and the core's lines and branches that no test runs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
REPORT = ROOT / "build/coverage"
SOURCES = "operator/kubeballoon"
CORE = f"{SOURCES}/core/"
_HEAD = ("package", "statements", "run", "branches", "taken")


@dataclass(slots=True)
class Tally:
    """How many statements and branches there are, and how many of them the tests ran."""

    statements: int = 0
    run: int = 0
    branches: int = 0
    taken: int = 0

    def add(self, summary: dict[str, Any]) -> None:
        """Add one file's summary, as coverage.py's JSON report has it."""
        self.statements += summary["num_statements"]
        self.run += summary["covered_lines"]
        self.branches += summary["num_branches"]
        self.taken += summary["covered_branches"]

    def row(self, name: str) -> tuple[str, ...]:
        """One row of the table."""
        run, taken = _percent(self.run, self.statements), _percent(self.taken, self.branches)
        return name, f"{self.statements}", run, f"{self.branches}", taken


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"


def table(files: dict[str, Any]) -> list[tuple[str, ...]]:
    """Rows by package, and one for all of them."""
    tallies: dict[str, Tally] = defaultdict(Tally)
    for path, measured in files.items():
        package, *below = Path(path).relative_to(SOURCES).parts
        for name in (package if below else "(top level)", "all"):
            tallies[name].add(measured["summary"])
    names = [*sorted(tallies.keys() - {"all"}), "all"]
    return [_HEAD, *(tallies[name].row(name) for name in names)]


def gaps(files: dict[str, Any]) -> list[str]:
    """The core's files that tests do not run as a whole, each with lines and branches (from one line to another)."""
    found = []
    for path, measured in sorted(files.items()):
        if not path.startswith(CORE):
            continue
        lines = [str(line) for line in measured["missing_lines"]]
        missing = {int(line) for line in lines}
        branches = [
            f"{start}->{end if end > 0 else 'end'}"
            for start, end in measured["missing_branches"]
            if start not in missing and end not in missing
        ]
        if lines or branches:
            found.append(f"  {path}: {', '.join(lines + branches)}")
    return found


def _coverage(*arguments: str) -> int:
    return subprocess.run([sys.executable, "-m", "coverage", *arguments], cwd=ROOT, check=False).returncode


def main(arguments: list[str]) -> int:
    """Run the tests that pytest's arguments select; the exit status is pytest's."""
    _coverage("erase")
    status = _coverage("run", "-m", "pytest", "--numprocesses=2", "--dist=loadfile", *arguments)
    result = REPORT / "coverage.json"
    reports = (("combine", "--quiet"), ("html", "--quiet", f"--directory={REPORT}"), ("json", "--quiet", f"-o{result}"))
    for report in reports:
        if _coverage(*report) != 0:
            return status or 1
    files = json.loads(result.read_text())["files"]
    for name, *figures in table(files):
        print(f"{name:<14}" + "".join(f"{figure:>12}" for figure in figures))
    missed = gaps(files)
    print("\n".join(["not run in the core:", *missed] if missed else ["all of the core was run"]))
    print(f"line by line: {(REPORT / 'index.html').relative_to(ROOT)}")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
