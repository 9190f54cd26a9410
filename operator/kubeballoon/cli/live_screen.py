"""This module draws what ``top -w`` shows, and says what each key does; it reads neither cluster nor terminal."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from kubeballoon.api.v1alpha1 import NodePressureStatus
from kubeballoon.cli.cluster_view import ClusterView
from kubeballoon.cli.explain import explain, print_explanation
from kubeballoon.cli.output import Output, format_bytes, format_percent
from kubeballoon.cli.processor_view import processor_cells
from kubeballoon.cli.table import Cell, Column, Style, layout, name, number
from kubeballoon.cli.top import (
    NODE_ORDERS,
    STATE_STYLES,
    VM_ORDERS,
    NodeSummary,
    VirtualMachineSummary,
    reason_cell,
    summarize_nodes,
    summarize_vms,
    trouble,
)
from kubeballoon.core.formatting import printable
from kubeballoon.vocabulary import NodeState

Line = list[Cell]
_BAR = 20  # characters of a node's bar
_NODE_SORTS = ("state", "available", "reclaimed", "cpu", "name")
_VM_SORTS = ("trouble", "demand", "reclaimed", "memory", "cpu", "name")
_KEYS = "↑↓ move  Enter go in  Esc back  n nodes  v VMs  s sort  / filter  q quit"


@dataclass(frozen=True, slots=True)
class NodeMemoryUse:
    """A NodeMemoryUse says who holds a node's memory, bytes: ``needed`` and ``idle`` are the VMs' own."""

    other: int
    needed: int
    idle: int
    total: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A Snapshot is what was read of the cluster at one moment, summarized once for all screens."""

    view: ClusterView
    nodes: tuple[NodeSummary, ...] = ()
    vms: tuple[VirtualMachineSummary, ...] = ()
    uses: Mapping[str, NodeMemoryUse] = field(default_factory=dict)

    @classmethod
    def of(cls, view: ClusterView) -> Snapshot:
        """Summarize a view."""
        uses = {node.metadata.name: _use(status) for node, status in view.reporting_nodes()}
        return cls(view, tuple(summarize_nodes(view)), tuple(summarize_vms(view)), uses)


def _use(status: NodePressureStatus) -> NodeMemoryUse:
    """Say who holds a node's memory: of each VM what its process holds, and how much of that its guest works with."""
    needed = idle = 0
    for vm in status.virtual_machines:
        if vm.pooled:
            continue
        held = vm.resident if vm.resident is not None else (vm.size if vm.actual is None else vm.actual)
        working = held if vm.need is None else min(held, vm.need + vm.overhead)
        needed += working
        idle += held - working
    return NodeMemoryUse(status.memory.other, needed, idle, max(1, status.memory.total))


@dataclass(frozen=True, slots=True)
class ScreenState:
    """A ScreenState is what the user has chosen to see.

    Attributes:
        screen: nodes, vms or vm.
        node: the node whose VMs are shown; None for all.
        vm: namespace and name of the VM that is explained.
        typing: whether keys go into the filter.
        row: the row under the cursor, or the first line shown of an explanation.
        done: whether the user has left.
    """

    screen: str = "nodes"
    node: str | None = None
    vm: tuple[str, str] | None = None
    node_sort: str = _NODE_SORTS[0]
    vm_sort: str = _VM_SORTS[0]
    filter: str = ""
    typing: bool = False
    row: int = 0
    done: bool = False


def press(state: ScreenState, key: str, snapshot: Snapshot | None, page: int) -> ScreenState:
    """Return the state after a key; ``page`` is how many rows the screen has."""
    if state.typing:
        return _type(state, key)
    moves = {"up": -1, "k": -1, "down": 1, "j": 1, "pageup": -page, "pagedown": page, "home": -(1 << 30)}
    if key in moves:
        return replace(state, row=max(0, state.row + moves[key]))
    if key == "end":
        return replace(state, row=1 << 30)
    action = _ACTIONS.get(key)
    return state if action is None else action(state, snapshot)


def _type(state: ScreenState, key: str) -> ScreenState:
    """Take a key into the filter; Enter keeps the filter and Esc drops it."""
    if key == "enter":
        return replace(state, typing=False)
    if key == "esc":
        return replace(state, typing=False, filter="")
    if key == "backspace":
        return replace(state, filter=state.filter[:-1])
    return replace(state, filter=state.filter + key, row=0) if len(key) == 1 and key.isprintable() else state


def _sort(state: ScreenState, _: Snapshot | None) -> ScreenState:
    def following(orders: Sequence[str], order: str) -> str:
        return orders[(orders.index(order) + 1) % len(orders)]

    if state.screen == "nodes":
        return replace(state, node_sort=following(_NODE_SORTS, state.node_sort), row=0)
    return replace(state, vm_sort=following(_VM_SORTS, state.vm_sort), row=0)


def _go_in(state: ScreenState, snapshot: Snapshot | None) -> ScreenState:
    if snapshot is None:
        return state
    if state.screen == "nodes":
        nodes = _nodes(state, snapshot)
        return (
            replace(state, screen="vms", node=nodes[min(state.row, len(nodes) - 1)].name, filter="", row=0)
            if nodes
            else state
        )
    vms = _vms(state, snapshot)
    if state.screen != "vms" or not vms:
        return state
    vm = vms[min(state.row, len(vms) - 1)]
    return replace(state, screen="vm", vm=(vm.namespace, vm.name), row=0)


def _go_back(state: ScreenState, _: Snapshot | None) -> ScreenState:
    if state.filter:
        return replace(state, filter="", row=0)
    if state.screen == "vm":
        return replace(state, screen="vms", vm=None, row=0)
    return replace(state, screen="nodes", node=None, row=0)


_ACTIONS: Mapping[str, Callable[[ScreenState, Snapshot | None], ScreenState]] = {
    "q": lambda state, _: replace(state, done=True),
    "s": _sort,
    "/": lambda state, _: replace(state, typing=state.screen != "vm", filter="", row=0),
    "n": lambda state, _: replace(state, screen="nodes", node=None, filter="", row=0),
    "v": lambda state, _: replace(state, screen="vms", node=None, filter="", row=0),
    "enter": _go_in,
    "right": _go_in,
    "esc": _go_back,
    "left": _go_back,
    "backspace": _go_back,
}


def _nodes(state: ScreenState, snapshot: Snapshot) -> list[NodeSummary]:
    nodes = [node for node in snapshot.nodes if state.filter in f"{node.name} {node.state}".lower()]
    return sorted(nodes, key=NODE_ORDERS[state.node_sort])


def _vms(state: ScreenState, snapshot: Snapshot) -> list[VirtualMachineSummary]:
    vms = [
        vm
        for vm in snapshot.vms
        if state.node in (None, vm.node)
        and state.filter in f"{vm.namespace}/{vm.name} {vm.node} {vm.policy} {reason_cell(vm)}".lower()
    ]
    return sorted(vms, key=VM_ORDERS[state.vm_sort])


def draw(state: ScreenState, snapshot: Snapshot | None, trouble_reading: str, width: int, height: int) -> list[Line]:
    """Draw a screen: ``height`` lines of ``width`` characters at most.

    Args:
        state: what to show.
        snapshot: what was read last; None before the first answer.
        trouble_reading: why nothing newer could be read; empty if all is well.
        width: characters of a line.
        height: lines.
    """
    head = [_title(state, snapshot), [Cell(trouble_reading, Style.BAD)]]
    foot = [Cell(f"filter: {state.filter}▏  Enter keep  Esc drop", Style.WARN)] if state.typing else [Cell(_KEYS)]
    room = max(1, height - len(head) - 1)
    body = [[Cell("reading the cluster …")]] if snapshot is None else _body(state, snapshot, width, room)
    lines = [*head, *body[:room], *[[] for _ in range(room - len(body))], foot]
    return [_crop(line, width) for line in lines[:height]]


def _title(state: ScreenState, snapshot: Snapshot | None) -> Line:
    what = {"nodes": "nodes", "vms": f"VMs of {state.node}" if state.node else "VMs", "vm": "VM"}[state.screen]
    order = {"nodes": f" by {state.node_sort}", "vms": f" by {state.vm_sort}", "vm": ""}[state.screen]
    filtered = f" with {state.filter!r}" if state.filter and not state.typing else ""
    if snapshot is None:
        return [Cell("kubeballoon", Style.STRONG)]
    reclaimed, size = (sum(getattr(node, each) for node in snapshot.nodes) for each in ("reclaimed", "size"))
    counts = f"{len(snapshot.nodes)} nodes, {len(snapshot.vms)} VMs"
    totals = f"{counts}, {format_bytes(reclaimed)} of {format_bytes(size)} reclaimed"
    now = f"{snapshot.view.now:%H:%M:%S}Z  "
    return [Cell(now), Cell(f"{what}{order}{filtered}  ", Style.STRONG), Cell(totals)]


def _body(state: ScreenState, snapshot: Snapshot, width: int, room: int) -> list[Line]:
    if state.screen == "vm":
        lines = list(_explanation(state, snapshot, width))
        first = min(state.row, max(0, len(lines) - room))
        return lines[first : first + room]
    if state.screen == "nodes":
        rows = [_node_row(node, snapshot.uses[node.name]) for node in _nodes(state, snapshot)]
        return [*_table(_NODE_COLUMNS, rows, state.row, width, room - 1), [Cell(_LEGEND)]]
    return list(_table(_VM_COLUMNS, [_vm_row(vm) for vm in _vms(state, snapshot)], state.row, width, room))


def _table(columns: Sequence[Column], rows: Sequence[Line], row: int, width: int, room: int) -> Iterator[Line]:
    """Lay out the part of a table around the cursor's row, which is marked."""
    if not rows:
        yield [Cell("nothing matches")]
        return
    row = min(row, len(rows) - 1)
    first = max(0, min(row - (room - 1) // 2, len(rows) - (room - 1)))
    shown = [[_clean(cell) for cell in each] for each in rows[first : first + room - 1]]
    for index, line in enumerate(layout(columns, shown, width - 2)):
        yield [Cell("▶ " if index - 1 == row - first else "  ", Style.STRONG), *line]


_NODE_COLUMNS = (
    *(name("NODE"), Column("STATE"), Column("MEMORY"), number("AVAIL"), number("VMS")),
    *(number("RECLAIMED"), number("CPU%", 1), number("AGE", 2)),
)
_LEGEND = "▒ others  █ VMs work with it  ░ VMs hold it idle  · free  > more than there is"


def _node_row(node: NodeSummary, use: NodeMemoryUse) -> Line:
    return [
        Cell(node.name),
        Cell(node.state, STATE_STYLES.get(NodeState(node.state), Style.PLAIN)),
        Cell(bar(use)),
        *map(Cell, (format_bytes(node.available), str(node.virtual_machines), format_bytes(node.reclaimed))),
        Cell(format_percent(None if node.processors is None else node.processors.usage)),
        Cell(f"{node.age}s", Style.BAD if node.silent else Style.PLAIN),
    ]


def bar(use: NodeMemoryUse, length: int = _BAR) -> str:
    """Draw who holds a node's memory: others, VMs that work with it, VMs that hold it idle; the rest is free."""
    text = "".join(
        sign * round(part * length / use.total) for sign, part in (("▒", use.other), ("█", use.needed), ("░", use.idle))
    )
    return f"{text[: length - 1]}>" if len(text) > length else text.ljust(length, "·")


_VM_COLUMNS = (
    *(name("VM"), name("NODE", 4), number("SIZE"), number("ACTUAL"), number("TARGET")),
    *(number("DEMAND"), Column("REASON"), number("CPUS", 1), number("CPU%", 3)),
)


def _vm_row(vm: VirtualMachineSummary) -> Line:
    cpus = processor_cells(vm.processors)
    return [
        *map(Cell, (f"{vm.namespace}/{vm.name}", vm.node)),
        *(Cell(format_bytes(each)) for each in (vm.size, vm.actual, vm.target, vm.demand)),
        Cell(reason_cell(vm), (Style.BAD, Style.WARN, Style.PLAIN)[min(2, trouble(vm))]),
        Cell(_text(cpus[0])),
        Cell(format_percent(None if vm.processors is None else vm.processors.usage)),
    ]


def _text(cell: str | Cell) -> str:
    return cell if isinstance(cell, str) else cell.text


def _explanation(state: ScreenState, snapshot: Snapshot, width: int) -> Iterator[Line]:
    """Explain a VM, in lines that fit."""
    import textwrap  # noqa: PLC0415 - only here

    found = [vm for vm in snapshot.view.reported_vms() if (vm.report.namespace, vm.report.name) == state.vm]
    if not found:
        yield [Cell("no agent reports this VM any more")]
        return
    text = io.StringIO()
    print_explanation(explain(snapshot.view, found[0]), Output(None, text, colours=False, columns=width))
    for line in text.getvalue().splitlines():
        indent = "  " if line.startswith("- ") else ""
        yield from ([Cell(part)] for part in textwrap.wrap(line, width, subsequent_indent=indent) or [""])


def _clean(cell: Cell) -> Cell:
    return Cell(printable(cell.text), cell.style)


def _crop(line: Line, width: int) -> Line:
    """Make a line's cells printable, and cut what goes beyond the screen."""
    cropped: Line = []
    for cell in map(_clean, line):
        left = width - sum(len(each.text) for each in cropped)
        cropped.append(Cell(cell.text[:left], cell.style))
    return cropped


def to_rich(lines: Sequence[Line], colours: Any) -> Any:
    """Make rich's Text of a screen; ``colours`` is rich's class Text, which only ``top -w`` imports."""
    text = colours(no_wrap=True, overflow="crop")
    for index, line in enumerate(lines):
        if index:
            text.append("\n")
        for cell in line:
            text.append(cell.text, _RICH_STYLES[cell.style])
    return text


_RICH_STYLES = {Style.PLAIN: "", Style.GOOD: "green", Style.WARN: "yellow", Style.BAD: "red", Style.STRONG: "bold"}
