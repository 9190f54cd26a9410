"""Functions stay short enough to be read at a glance."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MOST_LINES = 35  # without the docstring
Function = ast.FunctionDef | ast.AsyncFunctionDef
LONGER = {
    "hack/bench/fake_api_server.py vm_report": "one object, written out",
    "hack/testbed/lab/kubernetes_objects.py vmi_object": "one object, written out",
    "operator/kubeballoon/agent/agent.py Agent.__init__": "joins the agent's parts, each where the next needs it",
    "operator/kubeballoon/agent/main.py add_parser": "options",
    "operator/kubeballoon/agent/vm/guest_program_client.py GuestProgram.__init__": "fields, each with what it is",
    "operator/kubeballoon/agent/vm/memory_worker.py MemoryWorker.__init__": "fields, each with what it is",
    "operator/kubeballoon/cli/arguments.py _add_release": "options",
    "operator/kubeballoon/controller/main.py add_parser": "options",
    "operator/kubeballoon/core/memory/model.py MemoryVM.__post_init__": "figures that follow from each other",
    "operator/kubeballoon/replay/node_replay.py NodeReplay.__init__": "fields, each with what it is",
    "operator/kubeballoon/replay/recommend.py add_parser": "options",
    "operator/kubeballoon/replay/source.py add_source_options": "options",
}
"""Functions that may be longer, each with the reason."""


def functions(node: ast.AST, path: str, owner: str = "") -> Iterator[tuple[str, Function]]:
    """All functions of a module, as its path and each one's name after those of the classes that it is in."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef):
            yield from functions(child, path, f"{owner}{child.name}.")
            continue
        if isinstance(child, Function):
            yield f"{path} {owner}{child.name}", child
        yield from functions(child, path, owner)


def lines(function: Function) -> int:
    """The number of a function's lines, decorators and docstring not counted."""
    first = function.body[0]
    documented = ast.get_docstring(function, clean=False) is not None
    of_docstring = (first.end_lineno or first.lineno) - first.lineno + 1 if documented else 0
    return (function.end_lineno or function.lineno) - function.lineno + 1 - of_docstring


def test_functions_are_short_and_those_that_are_not_have_a_reason() -> None:
    modules = [path for part in ("operator", "hack") for path in sorted((ROOT / part).rglob("*.py"))]
    long = {
        name
        for path in modules
        for name, function in functions(ast.parse(path.read_text()), str(path.relative_to(ROOT)))
        if lines(function) > MOST_LINES
    }
    assert long - LONGER.keys() == set(), "divide them, or say why they have to be longer"
    assert LONGER.keys() - long == set(), "these are short now"
