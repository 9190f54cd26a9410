"""The changes that are tried: those of cosmic-ray's that tests should notice, and some for code full of bounds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import parso
from cosmic_ray.plugins import get_operator, operator_names
from parso.tree import BaseNode, NodeOrLeaf

Span = tuple[tuple[int, int], tuple[int, int]]
"""Where a change begins and ends: line and column of each."""

_BINARY = ("Add_Sub", "Sub_Add", "Mul_Div", "Mul_FloorDiv", "Div_Mul", "FloorDiv_Mul", "FloorDiv_Div", "Mod_Mul")
_BITS = ("LShift_RShift", "RShift_LShift", "BitAnd_BitOr", "BitOr_BitAnd", "BitXor_BitOr")
# Of each comparison its bound and its opposite: to compare with anything else fails in plain sight.
_COMPARISON = (
    *("Eq_NotEq", "NotEq_Eq", "Is_IsNot", "IsNot_Is"),
    *("Lt_LtE", "Lt_GtE", "LtE_Lt", "LtE_Gt", "Gt_GtE", "Gt_LtE", "GtE_Gt", "GtE_Lt"),
)
_OTHER = (
    *("AddNot", "NumberReplacer", "ZeroIterationForLoop", "ReplaceBreakWithContinue", "ReplaceContinueWithBreak"),
    *("ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "ReplaceAndWithOr", "ReplaceOrWithAnd"),
    *(f"ReplaceUnaryOperator_Delete_{name}" for name in ("Not", "USub", "Invert")),
)
_CHOSEN = (
    *(f"core/ReplaceBinaryOperator_{name}" for name in (*_BINARY, *_BITS)),
    *(f"core/ReplaceComparisonOperator_{name}" for name in _COMPARISON),
    *(f"core/{name}" for name in _OTHER),
)
_OPPOSITES = {"min": "max", "max": "min", "minimum": "maximum", "maximum": "minimum"}  # Python's, and numpy's


class MutationOperator(Protocol):
    """One kind of change, in the shape that cosmic-ray gives its own."""

    def mutation_positions(self, node: NodeOrLeaf) -> Iterator[Span]:
        """Where it can change this node; a place that it can change in two ways comes twice."""
        ...

    def mutate(self, node: Any, index: int) -> NodeOrLeaf:
        """Change the node in the way of this index among its positions."""
        ...


def _bounded(node: NodeOrLeaf) -> tuple[Any, list[Any]] | None:
    """The name and the arguments of a call of min or max with several plain arguments; None for any other node."""
    if not isinstance(node, BaseNode) or node.type not in ("atom_expr", "power"):
        return None
    call = node.children[-1]
    if call.type != "trailer" or call.children[0].get_code() != "(" or call.children[1].type != "arglist":
        return None
    named = node.children[-2]
    name = named.children[-1] if isinstance(named, BaseNode) else named
    arguments = call.children[1].children[::2]
    if name.get_code().strip() not in _OPPOSITES or any(argument.type == "argument" for argument in arguments):
        return None
    return name, arguments


class SwapMinAndMax:
    """The change of a lower bound to an upper one, and of an upper to a lower."""

    def mutation_positions(self, node: NodeOrLeaf) -> Iterator[Span]:
        """At the call."""
        if _bounded(node):
            yield node.start_pos, node.end_pos

    def mutate(self, node: Any, _index: int) -> NodeOrLeaf:
        """Change the name that is called."""
        name, _ = _bounded(node) or (node, [])
        name.value = _OPPOSITES[name.value]
        changed: NodeOrLeaf = node
        return changed


class DropBound:
    """The change of a call of min or max to one of its arguments."""

    def mutation_positions(self, node: NodeOrLeaf) -> Iterator[Span]:
        """At the call, for each of its arguments."""
        _, arguments = _bounded(node) or (None, [])
        for _ in arguments:
            yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> NodeOrLeaf:
        """Leave the argument of this index alone."""
        _, arguments = _bounded(node) or (None, [])
        prefix = node.get_first_leaf().prefix
        changed: NodeOrLeaf = parso.parse(f"{prefix}({arguments[index].get_code().strip()})")
        return changed


class DropStatement:
    """The change of a statement that changes something to one that does nothing."""

    def mutation_positions(self, node: NodeOrLeaf) -> Iterator[Span]:
        """At a call whose result is not used, at an assignment to a part of something, and at one such as ``+=``."""
        if not isinstance(node, BaseNode) or node.type != "simple_stmt":
            return
        statement = node.children[0]
        changes = statement.type == "atom_expr"
        if statement.type == "expr_stmt" and isinstance(statement, BaseNode):
            target, operator = statement.children[:2]
            is_augmented = operator.type == "operator" and operator.get_code().strip() != "="
            changes = is_augmented or target.type == "atom_expr"
        if changes:
            yield statement.start_pos, statement.end_pos

    def mutate(self, node: Any, _index: int) -> NodeOrLeaf:
        """Put ``pass`` in its place."""
        prefix = node.children[0].get_first_leaf().prefix
        node.children[0] = parso.parse(f"{prefix}pass")
        changed: NodeOrLeaf = node
        return changed


def operators() -> dict[str, MutationOperator]:
    """Every kind of change, by name.

    Raises:
        LookupError: cosmic-ray knows one of its own by another name.
    """
    unknown = set(_CHOSEN) - set(operator_names())
    if unknown:
        raise LookupError(f"cosmic-ray has no {', '.join(sorted(unknown))}")
    found: dict[str, MutationOperator] = {name: get_operator(name)() for name in _CHOSEN}
    return found | {"SwapMinAndMax": SwapMinAndMax(), "DropBound": DropBound(), "DropStatement": DropStatement()}
