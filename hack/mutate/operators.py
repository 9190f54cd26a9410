"""This module lists the kinds of change that are tried: cosmic-ray's, and some for code full of bounds."""

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
# Each comparison becomes its neighbour (< and <=) or its opposite (< and >=): tests notice any other change at once.
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
    """A MutationOperator is one kind of change, with the methods that cosmic-ray's own operators have."""

    def mutation_positions(self, node: NodeOrLeaf) -> Iterator[Span]:
        """Yield the places of a node that can be changed; one that can be changed in two ways comes twice."""
        ...

    def mutate(self, node: Any, index: int) -> NodeOrLeaf:
        """Change the node at the position with this index."""
        ...


def _bounded(node: NodeOrLeaf) -> tuple[Any, list[Any]] | None:
    """Find name and arguments of a call of min or max with several plain arguments; None for any other node."""
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
    """SwapMinAndMax turns a lower bound into an upper one, and an upper into a lower."""

    def mutation_positions(self, node: NodeOrLeaf) -> Iterator[Span]:
        """Yield the place of a call of min or max."""
        if _bounded(node):
            yield node.start_pos, node.end_pos

    def mutate(self, node: Any, _index: int) -> NodeOrLeaf:
        """Call max in place of min, or min in place of max."""
        name, _ = _bounded(node) or (node, [])
        name.value = _OPPOSITES[name.value]
        changed: NodeOrLeaf = node
        return changed


class DropBound:
    """DropBound replaces a call of min or max by one of its arguments."""

    def mutation_positions(self, node: NodeOrLeaf) -> Iterator[Span]:
        """Yield the place of a call of min or max once for each of its arguments."""
        _, arguments = _bounded(node) or (None, [])
        for _ in arguments:
            yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> NodeOrLeaf:
        """Put the argument with this index in the place of the call."""
        _, arguments = _bounded(node) or (None, [])
        prefix = node.get_first_leaf().prefix
        changed: NodeOrLeaf = parso.parse(f"{prefix}({arguments[index].get_code().strip()})")
        return changed


class DropStatement:
    """DropStatement replaces a statement that has an effect by one that does nothing."""

    def mutation_positions(self, node: NodeOrLeaf) -> Iterator[Span]:
        """Yield the place of an unused call, of an assignment to an item or attribute, or of one like ``+=``."""
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
        """Put ``pass`` in the statement's place."""
        prefix = node.children[0].get_first_leaf().prefix
        node.children[0] = parso.parse(f"{prefix}pass")
        changed: NodeOrLeaf = node
        return changed


def operators() -> dict[str, MutationOperator]:
    """List every kind of change by its name.

    Raises:
        LookupError: this version of cosmic-ray lacks one of the operators.
    """
    unknown = set(_CHOSEN) - set(operator_names())
    if unknown:
        raise LookupError(f"cosmic-ray has no {', '.join(sorted(unknown))}")
    found: dict[str, MutationOperator] = {name: get_operator(name)() for name in _CHOSEN}
    return found | {"SwapMinAndMax": SwapMinAndMax(), "DropBound": DropBound(), "DropStatement": DropStatement()}
