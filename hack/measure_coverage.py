"""This script runs tests under coverage.py, prints a table by package, and lists what they miss.

It lists the lines and branches of the packages core and governance that no test runs.
"""

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
LISTED = (f"{SOURCES}/core/", f"{SOURCES}/governance/")  # packages whose gaps are listed line by line
_HEAD = ("package", "statements", "run", "branches", "run")


@dataclass(slots=True)
class PackageCoverage:
    """PackageCoverage says how many statements and branches a package has, and how many of them the tests ran."""

    statements: int = 0
    run: int = 0
    branches: int = 0
    branches_run: int = 0

    def add(self, summary: dict[str, Any]) -> None:
        """Add one file's summary, as coverage.py's JSON report has it."""
        self.statements += summary["num_statements"]
        self.run += summary["covered_lines"]
        self.branches += summary["num_branches"]
        self.branches_run += summary["covered_branches"]

    def row(self, name: str) -> tuple[str, ...]:
        """Make the package's row of the table."""
        run, branches_run = _percent(self.run, self.statements), _percent(self.branches_run, self.branches)
        return name, f"{self.statements}", run, f"{self.branches}", branches_run


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"


def table(files: dict[str, Any]) -> list[tuple[str, ...]]:
    """Make the rows of the table: its head, one for each package, and one for all of them."""
    coverage: dict[str, PackageCoverage] = defaultdict(PackageCoverage)
    for path, measured in files.items():
        package, *below = Path(path).relative_to(SOURCES).parts
        for name in (package if below else "(top level)", "all"):
            coverage[name].add(measured["summary"])
    names = [*sorted(coverage.keys() - {"all"}), "all"]
    return [_HEAD, *(coverage[name].row(name) for name in names)]


def gaps(files: dict[str, Any]) -> list[str]:
    """List the files of core and governance with lines or branches (from one line to another) that no test runs."""
    found = []
    for path, measured in sorted(files.items()):
        if not path.startswith(LISTED):
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
    print("\n".join(["not run in core and governance:", *missed] if missed else ["all of core and governance was run"]))
    print(f"line by line: {(REPORT / 'index.html').relative_to(ROOT)}")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
