"""Where a node's states begin under a NodePolicy, and what is kept free."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeballoon.core.memory.model import Amount
from kubeballoon.core.memory.node_state import (
    NodeFacts,
    NodeTerms,
    StateThresholds,
    UnfitTermsError,
    node_limits,
    state_thresholds,
)

MIB, GIB = 1 << 20, 1 << 30
FACTS = NodeFacts(total=64 * GIB, capacity=66 * GIB, eviction=100 * MIB, margin=64 * MIB)
GIBS = (Amount(8 * GIB), Amount(6 * GIB), Amount(4 * GIB), Amount(2 * GIB))


def percents(*numbers: int) -> tuple[Amount, Amount, Amount, Amount]:
    ample, tight, scarce, critical = (Amount(percent=number) for number in numbers)
    return ample, tight, scarce, critical


def test_without_terms_a_node_has_esx_s_thresholds_and_keeps_as_much_free() -> None:
    limits = node_limits(NodeTerms(), FACTS)
    assert limits.thresholds == state_thresholds(64 * GIB, 100 * MIB, 64 * MIB)
    assert limits.reserve == limits.thresholds.ample


def test_thresholds_may_be_quantities_or_percentages() -> None:
    sizes = node_limits(NodeTerms(thresholds=GIBS), FACTS)
    assert sizes.thresholds == StateThresholds(8 * GIB, 6 * GIB, 4 * GIB, 2 * GIB)
    parts = node_limits(NodeTerms(thresholds=percents(50, 25, 5, 1)), FACTS)
    assert parts.thresholds == StateThresholds(*(64 * GIB * each // 100 for each in (50, 25, 5, 1)))


def test_the_kubelet_s_threshold_lifts_them_all() -> None:
    late = NodeTerms(thresholds=percents(4, 3, 2, 0), eviction=Amount(percent=5), margin=GIB)
    limits = node_limits(late, FACTS)
    assert limits.thresholds.critical == 66 * GIB * 5 // 100 + GIB
    assert limits.thresholds.ample - limits.thresholds.critical == 64 * GIB * 4 // 100


def test_a_policy_s_eviction_threshold_does_not_count_where_the_kubelet_s_own_was_read() -> None:
    terms = NodeTerms(thresholds=percents(6, 4, 2, 0), eviction=Amount(10 * GIB))
    read = NodeFacts(FACTS.total, FACTS.capacity, FACTS.eviction, FACTS.margin, eviction_read=True)
    assert node_limits(terms, FACTS).thresholds.critical == 10 * GIB + 64 * MIB
    assert node_limits(terms, read).thresholds.critical == 164 * MIB


def test_a_reserve_is_no_less_than_where_ample_begins() -> None:
    assert node_limits(NodeTerms(thresholds=GIBS, reserve=Amount(GIB)), FACTS).reserve == 8 * GIB
    assert node_limits(NodeTerms(thresholds=GIBS, reserve=Amount(percent=25)), FACTS).reserve == 16 * GIB


@pytest.mark.parametrize(
    "terms",
    [
        NodeTerms(reserve=Amount(64 * GIB)),
        NodeTerms(reserve=Amount(percent=100)),
        NodeTerms(thresholds=(Amount(70 * GIB), Amount(6 * GIB), Amount(4 * GIB), Amount(2 * GIB))),
        NodeTerms(eviction=Amount(percent=99)),
    ],
)
def test_a_policy_that_leaves_vms_nothing_is_refused(terms: NodeTerms) -> None:
    with pytest.raises(UnfitTermsError, match="and leave VMs nothing"):
        node_limits(terms, FACTS)


AMOUNTS = st.one_of(st.integers(0, 100).map(lambda each: Amount(percent=each)), st.integers(0, 1 << 37).map(Amount))


@given(
    st.lists(st.integers(0, 100), min_size=4, max_size=4, unique=True),
    AMOUNTS | st.none(),
    AMOUNTS | st.none(),
    st.integers(GIB, 1 << 40),
)
def test_states_begin_one_after_the_other_above_the_kubelet_s_threshold(
    parts: list[int], eviction: Amount | None, reserve: Amount | None, total: int
) -> None:
    facts = NodeFacts(total, total + GIB, 100 * MIB, 64 * MIB)
    terms = NodeTerms(thresholds=percents(*sorted(parts, reverse=True)), eviction=eviction, reserve=reserve)
    try:
        limits = node_limits(terms, facts)
    except UnfitTermsError:
        return
    found = limits.thresholds
    assert limits.reserve >= found.ample > found.tight > found.scarce > found.critical >= 64 * MIB
    assert limits.reserve < total
    assert found.critical >= (facts.eviction if eviction is None else eviction.of(facts.capacity)) + facts.margin
