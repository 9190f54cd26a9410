"""The screens of ``top -w``, without a terminal."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from hack.bench.fake_api_server import node_pressure, policies, vm_report
from kubeballoon.api.v1alpha1 import MemoryPolicy, NodePressure, ProcessorPolicy
from kubeballoon.cli.cluster_view import ClusterView
from kubeballoon.cli.live import split_keys
from kubeballoon.cli.live_screen import NodeMemoryUse, ScreenState, Snapshot, bar, draw, press
from kubeballoon.governance.loaded_policy import load_memory_policy, load_processor_policy

WIDTH, HEIGHT = 80, 24
NODES, VMS = 51, 24
HOSTILE = "\x1b[2J\x1b]0;owned\x07\nall is well\u202e"


@pytest.fixture(scope="module")
def snapshot() -> Snapshot:
    """A cluster of 51 nodes and 1,224 VMs; of one VM the agent says what a hostile guest would have it say."""
    nodes = []
    for index in range(NODES):
        vms = [vm_report(index, vm, index * VMS + vm) for vm in range(VMS)]
        if not index:
            vms[0] |= {"name": "aaa-gone", "responsive": False, "reason": "Unreachable", "message": HOSTILE}
        nodes.append(NodePressure.model_validate(node_pressure(index, vms)))
    made = policies()
    memory = tuple(load_memory_policy(MemoryPolicy.model_validate(each)) for each in made["memorypolicies"])
    processors = tuple(
        load_processor_policy(ProcessorPolicy.model_validate(each)) for each in made["processorpolicies"]
    )
    return Snapshot.of(ClusterView(memory, processors, {}, tuple(nodes), datetime(2026, 1, 1, tzinfo=UTC)))


def screen(state: ScreenState, snapshot: Snapshot | None, trouble: str = "") -> list[str]:
    return ["".join(cell.text for cell in line) for line in draw(state, snapshot, trouble, WIDTH, HEIGHT)]


def after(snapshot: Snapshot, *keys: str, state: ScreenState | None = None) -> ScreenState:
    state = ScreenState() if state is None else state
    for key in keys:
        state = press(state, key, snapshot, HEIGHT - 4)
    return state


@pytest.mark.parametrize("keys", [(), ("v",), ("enter",), ("v", "enter"), ("v", "/", "g", "o"), ("end",), ("v", "end")])
def test_every_screen_fits_a_small_terminal(snapshot: Snapshot, keys: tuple[str, ...]) -> None:
    lines = screen(after(snapshot, *keys), snapshot)
    assert len(lines) == HEIGHT
    assert [line for line in lines if len(line) > WIDTH or not line.isprintable()] == []


def test_the_node_in_danger_comes_first_and_its_bar_says_who_holds_what(snapshot: Snapshot) -> None:
    lines = screen(ScreenState(), snapshot)
    assert "51 nodes, 1224 VMs" in lines[0]
    assert "Scarce" in lines[3]
    assert "█" in lines[3]
    assert bar(NodeMemoryUse(other=25, needed=50, idle=0, total=100), 8) == "▒▒████··"
    assert bar(NodeMemoryUse(other=50, needed=50, idle=50, total=100), 8) == "▒▒▒▒███>"


def test_the_vm_in_trouble_comes_first(snapshot: Snapshot) -> None:
    assert "Troubled" in screen(after(snapshot, "v"), snapshot)[3]
    assert "Unreachable" in "\n".join(screen(after(snapshot, "v", "/", *"aaa", "enter"), snapshot))


def test_keys_go_into_a_node_and_a_vm_and_back(snapshot: Snapshot) -> None:
    state = after(snapshot, "down", "enter")
    assert (state.screen, state.node) == ("vms", snapshot_order(snapshot)[1])
    state = after(snapshot, "enter", state=state)
    text = "\n".join(screen(state, snapshot))
    assert "Why not more?" in text or "MEMORY" in text
    assert after(snapshot, "esc", "esc", state=state) == ScreenState()


def snapshot_order(snapshot: Snapshot) -> list[str]:
    shown = replace(snapshot, vms=())
    nodes = sorted(
        shown.nodes, key=lambda node: (node.state != "Scarce", node.available / max(1, node.total), node.name)
    )
    return [node.name for node in nodes]


def test_a_key_sorts_and_another_filters(snapshot: Snapshot) -> None:
    assert after(snapshot, "s").node_sort == "available"
    assert after(snapshot, "v", "s").vm_sort == "demand"
    filtered = after(snapshot, "v", "/", *"team-07", "enter")
    rows = [line for line in screen(filtered, snapshot)[3:] if line.strip() and "Esc back" not in line]
    assert rows
    assert all("team-07" in row for row in rows)
    assert after(snapshot, "esc", state=filtered).filter == ""
    assert "nothing matches" in screen(after(snapshot, "/", *"nowhere", "enter"), snapshot)[2]


def test_letters_of_a_filter_are_no_commands(snapshot: Snapshot) -> None:
    assert after(snapshot, "/", "q") == ScreenState(typing=True, filter="q")
    assert after(snapshot, "/", "q", "enter", "q").done


def test_a_lost_connection_is_said_and_the_last_figures_stay(snapshot: Snapshot) -> None:
    lines = screen(ScreenState(), snapshot, "not up to date: the API server cannot be reached")
    assert lines[1] == "not up to date: the API server cannot be reached"
    assert "Scarce" in lines[3]
    assert "reading the cluster" in screen(ScreenState(), None)[2]


def test_a_guest_s_text_is_text(snapshot: Snapshot) -> None:
    lines = screen(after(snapshot, "v", "/", *"aaa", "enter", "enter"), snapshot)
    assert all(line.isprintable() for line in lines)
    assert any("all is well" in line for line in lines)


def test_keys_are_told_apart() -> None:
    assert list(split_keys(b"q\x1b[A\x1b[6~\rx\x7f\x1b")) == ["q", "up", "pagedown", "enter", "x", "backspace", "esc"]
    assert list(split_keys(b"\x1b[99~")) == []
