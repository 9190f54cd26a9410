"""This module finds the mutants of a file, and chooses among them at random."""

from __future__ import annotations

import ast
import difflib
import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import parso
from cosmic_ray.ast import ast_nodes
from cosmic_ray.mutating import mutate_code

from hack.mutate.operators import MutationOperator, Span, operators

_AROUND_NUMBERS = (
    *(ast.Constant, ast.Tuple, ast.BinOp, ast.UnaryOp, ast.operator, ast.unaryop, ast.expr_context),
    *(ast.Call, ast.keyword),
)


@dataclass(frozen=True, slots=True)
class Mutant:
    """A Mutant is one file of the core with one change.

    Attributes:
        path: the file.
        line: the line at which the change begins.
        before: the lines that change, without indentation.
        after: what they become.
        code: the whole file with the change.
    """

    path: Path
    line: int
    before: str
    after: str
    code: str

    @classmethod
    def of(cls, path: Path, source: str, code: str) -> Mutant:
        """Describe the mutant that has ``code`` in place of ``source``."""
        lines, changed = source.splitlines(), code.splitlines()
        blocks = difflib.SequenceMatcher(None, lines, changed, autojunk=False).get_opcodes()
        changes = [block for block in blocks if block[0] != "equal"]
        _, first, _, changed_first, _ = changes[0]
        _, _, last, _, changed_last = changes[-1]
        before, after = _squeezed(lines[first:last]), _squeezed(changed[changed_first:changed_last])
        return cls(path, first + 1, before, after, code)

    @property
    def key(self) -> tuple[str, str]:
        """The change alone, which identifies the mutant even after its lines have moved."""
        return self.before, self.after

    def __str__(self) -> str:
        """Show the place and the change."""
        return f"{self.path}:{self.line}\n  - {self.before}\n  + {self.after}"


def _squeezed(lines: list[str]) -> str:
    return " ".join(" ".join(lines).split())


def choose(paths: list[Path], chance: random.Random) -> Iterator[Mutant]:
    """Yield mutants of files in random order: one for each spot that can be changed, in one of the ways it can be."""
    known = operators()
    spots = [
        (path, source, ways)
        for path in paths
        for source in [path.read_text()]
        for _, ways in sorted(_spots(source, known).items())
    ]
    chance.shuffle(spots)
    for path, source, ways in spots:
        name, occurrence = chance.choice(ways)
        code = mutate_code(source, known[name], occurrence)
        if code is not None and _is_another_program(source, code):
            yield Mutant.of(path, source, code)


def _spots(source: str, known: dict[str, MutationOperator]) -> dict[Span, list[tuple[str, int]]]:
    """Find each spot that can be changed, with the operators that can change it and their occurrences there."""
    left_out = [*_annotations(source), *_chosen_values(source), *_checks(source)]
    spots: dict[Span, list[tuple[str, int]]] = defaultdict(list)
    nodes = list(ast_nodes(parso.parse(source)))
    for name, operator in known.items():
        positions = [(span, node) for node in nodes for span in operator.mutation_positions(node)]
        for occurrence, (span, node) in enumerate(positions):
            is_left_out = any(start <= span[0] < end for start, end in left_out)
            is_lone_star = (
                node.parent is not None and node.parent.type == "parameters"
            )  # cosmic-ray reads this star as a multiplication
            if not (is_left_out or is_lone_star):
                spots[span].append((name, occurrence))
    return spots


def _annotations(source: str) -> Iterator[Span]:
    """Yield where type annotations stand: the program never evaluates them, so no test can notice a change."""
    for node in ast.walk(ast.parse(source)):
        annotation = getattr(node, "annotation", None) or getattr(node, "returns", None)
        if isinstance(annotation, ast.expr):
            yield _span(annotation)


def _chosen_values(source: str) -> Iterator[Span]:
    """Yield where constants and fields' defaults have their numbers, which a test could only repeat."""
    tree = ast.parse(source)
    bodies = (tree.body, *(node.body for node in ast.walk(tree) if isinstance(node, ast.ClassDef)))
    for statement in chain.from_iterable(bodies):
        value = statement.value if isinstance(statement, ast.Assign | ast.AnnAssign) else None
        if value is not None and _is_of_numbers(value):
            yield _span(value)


def _checks(source: str) -> Iterator[Span]:
    """Yield where ``zip`` is told to check lengths: they are equal in a program without faults, so no test can tell."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.keyword) and node.arg == "strict":
            yield _span(node.value)


def _is_of_numbers(value: ast.expr) -> bool:
    """Whether an expression is made of numbers alone, as are ``4 << 20`` and ``Amount(percent=50)``."""
    parts = list(ast.walk(value))
    called = [part.func for part in parts if isinstance(part, ast.Call)]
    plain = [part for part in parts if part not in called]
    constants = [part.value for part in plain if isinstance(part, ast.Constant)]
    numbers = [
        constant for constant in constants if isinstance(constant, int | float) and not isinstance(constant, bool)
    ]
    return all(isinstance(part, _AROUND_NUMBERS) for part in plain) and constants == numbers != []


def _span(expression: ast.expr) -> Span:
    end_line, end_column = expression.end_lineno, expression.end_col_offset
    if end_line is None or end_column is None:  # only where a program made the tree
        raise ValueError("the expression was not parsed from text")
    return (expression.lineno, expression.col_offset), (end_line, end_column)


def _is_another_program(source: str, code: str) -> bool:
    try:
        return ast.dump(ast.parse(source)) != ast.dump(ast.parse(code))
    except SyntaxError:
        return False
