"""Names stand for one class, retired words and fields stay away, and docstrings can be read alone.

docs/glossary.md has the words that are in use.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OPERATOR = ROOT / "operator"
HACK = ROOT / "hack"
RETIRED = {
    *("asked", "attendant", "book", "course", "hoard", "keeper", "mandate", "mourn", "mute", "parting", "reliever"),
    *("ruler", "seat", "sight", "story", "tally", "told", "world"),
}
RETIRED_CLASSES = {"Channel", "Held", "Kind", "Load", "Outcome", "Place"}  # good words for variables, vague for a class
Named = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
RETIRED_FIELDS = re.compile(r"^reserved$|\bstatus\.reserved\b|(?:^|\.)(?:relief|regainedBy)\b")  # of the API
NODES = [  # the nodes of all modules' syntax trees, each with its file and line
    (f"{path.relative_to(OPERATOR)}:{getattr(node, 'lineno', 1)}", node)
    for path in sorted((OPERATOR / "kubeballoon").rglob("*.py"))
    for node in ast.walk(ast.parse(path.read_text()))
]


def defined(node: ast.AST) -> str:
    """The name of a class, function, parameter or field that a node defines, else nothing; local variables are free."""
    if isinstance(node, Named):
        return node.name
    if isinstance(node, ast.arg):
        return node.arg
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return node.target.id
    return node.attr if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) else ""


def words(name: str) -> set[str]:
    """The words of a name in snake case or camel case, in lower case."""
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)}


def test_no_class_of_the_tools_has_the_name_of_one_of_the_operator() -> None:
    classes = {node.name for _, node in NODES if isinstance(node, ast.ClassDef)}
    found = [
        f"{path.relative_to(HACK)} {node.name}"
        for path in sorted(HACK.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef) and node.name in classes
    ]
    assert found == [], "one name for two classes"


def test_every_class_name_stands_for_one_class() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for place, node in NODES:
        if isinstance(node, ast.ClassDef):
            places[node.name].append(place)
    assert {name: found for name, found in places.items() if len(found) > 1} == {}, "one name for two classes"


def test_retired_words_do_not_come_back() -> None:
    found = [f"{place} {defined(node)}" for place, node in NODES if words(defined(node)) & RETIRED]
    found += [
        f"{place} {node.name}" for place, node in NODES if isinstance(node, Named) and node.name in RETIRED_CLASSES
    ]
    assert found == [], "docs/glossary.md has the words that are in use"


def test_every_module_says_what_it_is_in_a_sentence_with_a_subject() -> None:
    documented = [(place, ast.get_docstring(node) or "") for place, node in NODES if isinstance(node, ast.Module)]
    found = [place for place, text in documented if not re.match(r"This (module|package|program) [a-z]+\b", text)]
    assert found == [], "begin with 'This module' or 'This package' and a verb"


def test_no_docstring_says_see_there() -> None:
    documented = [(place, node) for place, node in NODES if isinstance(node, ast.Module | Named)]
    found = [place for place, node in documented if "see there" in (ast.get_docstring(node) or "").lower()]
    assert found == [], "say it in short instead"


def test_former_field_names_do_not_come_back_in_tests_or_tools() -> None:
    """A dictionary gives None for a former field, and an assertion on that may pass whatever happens."""
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.value}"
        for directory in ("tests", "hack")
        for path in sorted((ROOT / directory).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and RETIRED_FIELDS.search(node.value)
    ]
    assert found == [], "CHANGELOG.md has the fields' new names"
