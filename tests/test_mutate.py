"""`make mutate`: which mutants it tries, how it tells whether the tests notice one, and when it fails."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from hack.mutate.__main__ import ROOT, ListError, judged, listed
from hack.mutate.mutants import Mutant, choose
from hack.mutate.trial import BaselineError, Copy, own_tests

CLAMP = '''"""A part of a core."""


def clamp(value: int) -> int:
    return max(0, value)
'''
NOTICES = """from kubeballoon.core.part import clamp


def test_it_clamps():
    assert clamp(-1) == 0
    assert clamp(2) == 2
"""


def changes(source: str, tmp_path: Path) -> set[tuple[str, str]]:
    """Every change that chance comes upon in a while."""
    path = tmp_path / "part.py"
    path.write_text(f"{source}\n")
    return {mutant.key for seed in range(60) for mutant in choose([path], chance(seed))}


def chance(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - nobody guards anything with it


@pytest.mark.parametrize(
    ("source", "becomes"),
    [
        ("x = max(a, b)", {"x = min(a, b)", "x = (a)", "x = (b)"}),
        ("x = np.minimum(a, b)", {"x = np.maximum(a, b)", "x = (a)", "x = (b)"}),
        ("x = a < b", {"x = a <= b", "x = a >= b"}),
        ("goals[a] = b", {"pass"}),
        ("x -= a", {"pass"}),
        ("x.append(a)", {"pass"}),
        ("x = a if b else c", {"x = a if not b else c"}),
    ],
)
def test_bounds_comparisons_and_effects_are_changed(source: str, becomes: set[str], tmp_path: Path) -> None:
    assert changes(source, tmp_path) == {(source, after) for after in becomes}


@pytest.mark.parametrize(
    "source",
    [
        "def f(a: int | None, *, b: int) -> int | str: ...",
        "LIMIT = 4 << 20, -1",
        "class A:\n    share: Amount = Amount(percent=50)\n    size: int = 0",
        "x: int | None",
        "x = zip(a, b, strict=True)",
    ],
)
def test_types_chosen_values_and_checks_of_lengths_are_left_alone(source: str, tmp_path: Path) -> None:
    assert changes(source, tmp_path) == set()


def test_a_switch_that_a_field_begins_with_is_changed(tmp_path: Path) -> None:
    assert changes("class A:\n    on: bool = True", tmp_path) == {("on: bool = True", "on: bool = False")}


def test_a_mutant_is_known_wherever_its_line_moves(tmp_path: Path) -> None:
    indented = "if here:\n    x = a + b"
    assert ("x = a + b", "x = a - b") in changes("x = a + b", tmp_path) & changes(indented, tmp_path)


def test_a_seed_repeats_the_choice(tmp_path: Path) -> None:
    path = tmp_path / "part.py"
    path.write_text(CLAMP)
    first, second = (list(choose([path], chance(7))) for _ in range(2))
    assert first == second != []


def project(tmp_path: Path, test: str) -> Path:
    """A project with one function and one test."""
    root = tmp_path / "project"
    packages = {f"operator/kubeballoon/{package}__init__.py": "" for package in ("", "core/")}
    for name, text in {**packages, "operator/kubeballoon/core/part.py": CLAMP, "tests/core/test_part.py": test}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    for name in ("hack/__init__.py", "hack/mutate"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        (root / name).parent.mkdir(exist_ok=True)
        copy(ROOT / name, root / name)
    return root


def test_a_mutant_survives_what_no_test_notices_and_leaves_no_trace(tmp_path: Path) -> None:
    copy = Copy.made(project(tmp_path, NOTICES), tmp_path / "copy", seed=1)
    path = Path("operator/kubeballoon/core/part.py")
    noticed = Mutant.of(path, CLAMP, CLAMP.replace("max", "min"))
    unnoticed = Mutant.of(path, CLAMP, CLAMP.replace("A part", "A piece"))
    assert [copy.survives(mutant) for mutant in (noticed, unnoticed, noticed)] == [False, True, False]
    assert (copy.root / path).read_text() == CLAMP


@pytest.mark.parametrize(
    ("file", "own"),
    [
        ("memory/allocation.py", {"test_memory_allocation.py"}),
        ("processors/allocation.py", {"test_processor_allocation.py"}),
        ("memory/model.py", {"test_memory_model.py"}),
        ("processors/model.py", {"test_processor_allocation.py"}),
        ("memory/demand.py", {"test_demand.py"}),
        ("entitlement.py", {"test_entitlement.py"}),
    ],
)
def test_a_mutant_meets_its_files_own_tests_first(file: str, own: set[str]) -> None:
    path = ROOT / "operator/kubeballoon/core" / file
    assert path.exists()
    assert {Path(test).name for test in own_tests(path, (ROOT / "tests/core").glob("test_*.py"))} == own


def test_tests_that_fail_by_themselves_tell_nothing(tmp_path: Path) -> None:
    with pytest.raises(BaselineError, match="without any mutant"):
        Copy.made(project(tmp_path, NOTICES.replace("== 2", "== 3")), tmp_path / "copy", seed=1)


@pytest.mark.parametrize(("tried", "survived", "status"), [(20, 0, 0), (20, 2, 0), (20, 3, 1), (0, 0, 2)])
def test_more_than_one_in_ten_is_too_many(tried: int, survived: int, status: int) -> None:
    assert judged(tried, [Mutant(Path("part.py"), 1, "a", "b", "b")] * survived) == status


def test_every_listed_equivalent_is_a_line_of_the_core_and_has_a_reason() -> None:
    assert all(before != after for before, after in listed())


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ("{before: 'no such line', after: b, reason: c}", "nothing in the core reads 'no such line'"),
        ("{before: a, after: b}", "before, after and reason are needed"),
    ],
)
def test_a_listed_equivalent_that_is_no_more_is_told(entry: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "equivalent.yaml").write_text(f"- {entry}\n")
    with pytest.raises(ListError, match=complaint):
        listed(tmp_path / "equivalent.yaml")
