"""The table of claims in operator/ARCHITECTURE.md is complete, and every test that it names exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VALID = {*range(2, 5), *range(6, 10), *range(12, 18), *range(20, 34)}
_ROW = re.compile(r"^\| (\d+) \|.*\| `(tests/\S+\.py)::(test_\w+)` \|$", re.MULTILINE)


def rows() -> list[tuple[int, str, str]]:
    """Return the number of each claim, with the file and the name of the test that shows it."""
    text = (ROOT / "operator/ARCHITECTURE.md").read_text()
    return [(int(claim), file, name) for claim, file, name in _ROW.findall(text)]


def test_every_valid_claim_has_one_row() -> None:
    claims = [claim for claim, _, _ in rows()]
    assert sorted(claims) == sorted(VALID)


def test_every_test_that_is_named_exists() -> None:
    for claim, file, name in rows():
        defined = {node.name for node in ast.walk(ast.parse((ROOT / file).read_text())) if hasattr(node, "name")}
        assert name in defined, f"claim {claim}: {file} has no {name}"
