"""Which nodes of a pool are tainted."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeballoon.core.tainting import TaintableNode, TaintTerms, choose_taints
from kubeballoon.vocabulary import NodeState, RemedyMode, TaintEffect

PREFER, FORBID = TaintEffect.PREFER_NO_SCHEDULE, TaintEffect.NO_SCHEDULE
TERMS = TaintTerms(mode=RemedyMode.ENFORCE, when_critical=FORBID, max_tainted=2, remove_after=300)


def node(
    name: str, state: NodeState = NodeState.AMPLE, *, since: float = 1e6, effect: TaintEffect | None = None
) -> TaintableNode:
    """A node that has been in its state for ``since`` seconds, and was Critical before that."""
    ample_for = since if state is NodeState.AMPLE else 0.0
    return TaintableNode(name, state, ample_for, 0.0 if state is NodeState.CRITICAL else since, effect)


def test_nodes_that_are_short_are_tainted_and_critical_ones_as_the_policy_says() -> None:
    nodes = [node("ample"), node("tight", NodeState.TIGHT), node("critical", NodeState.CRITICAL)]
    assert choose_taints(TERMS, nodes) == {"tight": PREFER, "critical": FORBID}
    mild = replace(TERMS, when_critical=PREFER)
    assert choose_taints(mild, nodes) == {"tight": PREFER, "critical": PREFER}


def test_a_taint_is_removed_once_the_node_was_ample_for_a_while() -> None:
    assert choose_taints(TERMS, [node("n", since=299, effect=PREFER)]) == {"n": PREFER}
    assert choose_taints(TERMS, [node("n", since=300, effect=PREFER)]) == {}
    assert choose_taints(TERMS, [node("n", since=10)]) == {}, "it was never tainted"


def test_a_strong_taint_is_weakened_once_the_node_was_not_critical_for_a_while() -> None:
    assert choose_taints(TERMS, [node("n", NodeState.TIGHT, since=299, effect=FORBID)]) == {"n": FORBID}
    assert choose_taints(TERMS, [node("n", NodeState.TIGHT, since=300, effect=FORBID)]) == {"n": PREFER}
    mild = replace(TERMS, when_critical=PREFER)
    assert choose_taints(mild, [node("n", NodeState.TIGHT, since=1, effect=FORBID)]) == {"n": PREFER}


def test_the_worst_come_first_then_those_that_are_tainted() -> None:
    nodes = [
        node("a", NodeState.TIGHT),
        node("b", NodeState.TIGHT, effect=PREFER),
        node("c", NodeState.SCARCE),
        node("d", since=1, effect=PREFER),
    ]
    assert choose_taints(TERMS, nodes).keys() == {"c", "b"}
    assert choose_taints(replace(TERMS, max_tainted=1), nodes).keys() == {"c"}


@pytest.mark.parametrize(("percent", "nodes", "most"), [(25, 2, 1), (25, 4, 1), (25, 5, 2), (0, 9, 0), (100, 3, 3)])
def test_a_share_of_a_pool_is_rounded_up(percent: int, nodes: int, most: int) -> None:
    terms = TaintTerms(mode=RemedyMode.ENFORCE, max_tainted_percent=percent)
    pool = [node(f"n{number}", NodeState.TIGHT) for number in range(nodes)]
    assert len(choose_taints(terms, pool)) == most


NODES = st.lists(
    st.tuples(
        st.sampled_from(NodeState), st.floats(0, 600), st.sampled_from([None, PREFER, FORBID]), st.integers(0, 9)
    ),
    max_size=12,
).map(
    lambda drawn: [
        node(f"n{number}", state, since=since, effect=effect) for number, (state, since, effect, _) in enumerate(drawn)
    ]
)


@given(NODES, st.integers(0, 5), st.sampled_from([PREFER, FORBID]), st.sampled_from(RemedyMode), st.randoms())
def test_no_more_than_allowed_never_a_calm_one_and_none_without_need(
    nodes: list[TaintableNode], most: int, critical: TaintEffect, mode: RemedyMode, random: st.DataObject
) -> None:
    terms = TaintTerms(mode=mode, when_critical=critical, max_tainted=most)
    chosen = choose_taints(terms, nodes)
    assert len(chosen) <= (0 if mode is RemedyMode.OFF else most)
    by_name = {each.name: each for each in nodes}
    for name, effect in chosen.items():
        assert by_name[name].state is not NodeState.AMPLE or by_name[name].effect is not None
        assert effect is PREFER or critical is FORBID
    short = [each for each in nodes if each.state is not NodeState.AMPLE]
    if mode is not RemedyMode.OFF:
        assert len(chosen) >= min(most, len(short))
        left_out = [each.state.severity for each in short if each.name not in chosen]
        assert all(by_name[name].state.severity >= max(left_out, default=0) for name in chosen)
    shuffled = list(nodes)
    random.shuffle(shuffled)  # type: ignore[attr-defined]  # it is a random.Random
    assert choose_taints(terms, shuffled) == chosen


@given(NODES, st.integers(0, 5))
def test_what_was_chosen_is_chosen_again_once_it_is_carried_out(nodes: list[TaintableNode], most: int) -> None:
    terms = TaintTerms(mode=RemedyMode.ENFORCE, when_critical=FORBID, max_tainted=most)
    chosen = choose_taints(terms, nodes)
    carried_out = [replace(each, effect=chosen.get(each.name)) for each in nodes]
    assert choose_taints(terms, carried_out) == chosen
