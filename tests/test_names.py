"""Names stand for one class, retired words and fields stay away, and docstrings can be read alone.

docs/glossary.md has the words that are in use.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OPERATOR = ROOT / "operator"
HACK = ROOT / "hack"
RETIRED = {
    *("asked", "attendant", "book", "course", "hoard", "keeper", "mandate", "mourn", "mute", "parting"),
    *("relief", "relieve", "reliever"),
    *("ruler", "seat", "sight", "story", "tally", "told", "world"),
}
RETIRED_CLASSES = {"Channel", "Held", "Kind", "Load", "Outcome", "Place"}  # good words for variables, vague for a class
Named = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
RETIRED_FIELDS = re.compile(r"^reserved$|\bstatus\.reserved\b|(?:^|\.)(?:relief|regainedBy)\b")  # of the API


def nodes_of(directory: Path) -> list[tuple[str, ast.AST]]:
    """The nodes of all modules' syntax trees below a directory, each with its file and line."""
    return [
        (f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}", node)
        for path in sorted(directory.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
    ]


NODES = nodes_of(OPERATOR / "kubeballoon")


def defined(node: ast.AST) -> str:
    """The name of a class, function, parameter or field that a node defines, else nothing.

    Local variables are free; `constants` finds a module's.
    """
    if isinstance(node, Named):
        return node.name
    if isinstance(node, ast.arg):
        return node.arg
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return node.target.id
    return node.attr if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) else ""


def constants(module: ast.AST) -> Iterator[str]:
    """The names that a module's own assignments without a type define, as those of constants."""
    statements = module.body if isinstance(module, ast.Module) else []
    for target in (target for node in statements if isinstance(node, ast.Assign) for target in node.targets):
        yield from (node.id for node in ast.walk(target) if isinstance(node, ast.Name))


def words(name: str) -> set[str]:
    """The words of a name in snake case or camel case, in lower case."""
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)}


def test_every_class_name_stands_for_one_class_in_operator_and_tools_together() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for place, node in [*NODES, *nodes_of(HACK)]:
        if isinstance(node, ast.ClassDef):
            places[node.name].append(place)
    assert {name: found for name, found in places.items() if len(found) > 1} == {}, "one name for two classes"


def test_retired_words_do_not_come_back() -> None:
    found = [f"{place} {defined(node)}" for place, node in NODES if words(defined(node)) & RETIRED]
    found += [f"{place} {name}" for place, node in NODES for name in constants(node) if words(name) & RETIRED]
    found += [
        f"{place} {node.name}" for place, node in NODES if isinstance(node, Named) and node.name in RETIRED_CLASSES
    ]
    assert found == [], "docs/glossary.md has the words that are in use"


def test_every_module_says_what_it_is_in_a_sentence_with_a_subject() -> None:
    documented = [(place, ast.get_docstring(node) or "") for place, node in NODES if isinstance(node, ast.Module)]
    found = [place for place, text in documented if not re.match(r"This (module|package|program) [a-z]+\b", text)]
    assert found == [], "begin with 'This module' or 'This package' and a verb"


def listed_names(documented: ast.AST, section: str) -> set[str]:
    """The names that a section of a docstring explains: "Args" those of parameters, "Attributes" those of fields."""
    text = ast.get_docstring(documented) if isinstance(documented, Named) else None
    found = re.search(rf"^{section}:\n((?:    .*\n?|\n)*)", text or "", re.MULTILINE)
    lines = re.findall(r"^ {4}(\w[\w, *]*):", found[1], re.MULTILINE) if found else []
    return {name.strip(" *") for line in lines for name in line.split(",")}


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    """The names of all of a function's parameters."""
    return {node.arg for node in ast.walk(function.args) if isinstance(node, ast.arg)}


def attributes(class_: ast.ClassDef, classes: Mapping[str, ast.ClassDef]) -> set[str]:
    """The names that a class and its bases define, by whatever statement."""
    assigned = {node.id for node in ast.walk(class_) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    inherited = [node.id for base in class_.bases for node in ast.walk(base) if isinstance(node, ast.Name)]
    found = assigned | {defined(node) for node in ast.walk(class_)}
    return found.union(*(attributes(classes[name], classes) for name in inherited if name in classes))


def test_docstrings_explain_no_parameter_or_attribute_that_is_not_there() -> None:
    classes = {node.name: node for _, node in NODES if isinstance(node, ast.ClassDef)}
    functions = [(place, node) for place, node in NODES if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    gone = [(place, listed_names(node, "Args") - parameters(node)) for place, node in functions]
    places = [(place, node) for place, node in NODES if isinstance(node, ast.ClassDef)]
    gone += [(place, listed_names(node, "Attributes") - attributes(node, classes)) for place, node in places]
    assert [f"{place} {', '.join(names)}" for place, names in gone if names] == []
    assert sum(bool(listed_names(node, "Args")) for _, node in functions) > 50
    assert sum(bool(listed_names(node, "Attributes")) for _, node in places) > 50


def test_a_function_that_is_imported_by_its_name_comes_from_one_module() -> None:
    """Two functions of one name, of which the wrong one may be imported, look the same to whoever reads a call."""
    modules: dict[str, set[str]] = defaultdict(set)
    for _, node in NODES:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("kubeballoon."):
            for alias in node.names:
                modules[alias.name].add(node.module or "")
    functions = {name: sorted(found) for name, found in modules.items() if name.islower() and len(found) > 1}
    assert functions == {}, "one name for two functions"


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
        if path != Path(__file__)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and RETIRED_FIELDS.search(node.value)
    ]
    assert found == [], "CHANGELOG.md has the fields' new names"
