"""Hypothesis strategies for the core: claims, policies, VMs and nodes in any condition."""

from __future__ import annotations

from hypothesis import strategies as st

from kubeballoon.core.decision_reason import TargetChange
from kubeballoon.core.entitlement import Claim
from kubeballoon.core.memory.model import Amount, MemoryNode, MemoryTerms, MemoryVM
from kubeballoon.core.units import MIB
from kubeballoon.vocabulary import AgentAction, Mode, NodeState, ReclaimWhen, SwapAbility, WorkingSetReclaim


@st.composite
def claim(draw: st.DrawFn, key: str, most: int = 1 << 38) -> Claim:
    """Draw one claim whose minimum does not exceed its maximum."""
    minimum, maximum = sorted((draw(st.integers(0, most)), draw(st.integers(0, most))))
    return Claim(
        key=key,
        minimum=minimum,
        maximum=maximum,
        weight=draw(st.integers(1, most)),
        active=draw(st.integers(0, most)),
        idle_tax=draw(st.integers(0, 99)),
    )


@st.composite
def claims(draw: st.DrawFn, most: int = 1 << 38, at_most: int = 12) -> list[Claim]:
    """Draw several claims, each with another key."""
    count = draw(st.integers(0, at_most))
    return [draw(claim(f"vm-{index}", most)) for index in range(count)]


def policies() -> st.SearchStrategy[MemoryTerms]:
    """Draw policies whose amounts are percentages or bytes."""
    amounts = st.one_of(
        st.builds(Amount, percent=st.integers(0, 100)),
        st.builds(Amount, bytes=st.integers(0, 1 << 36)),
    )
    return st.builds(
        MemoryTerms,
        name=st.just("p"),
        minimum=st.one_of(
            amounts, st.just(Amount(pod_request=True)), st.builds(Amount, percent=st.just(50), limit=amounts)
        ),
        maximum=amounts,
        headroom=amounts,
        shares_per_gib=st.integers(1, 10_000),
        idle_tax=st.integers(0, 99),
        mode=st.sampled_from(Mode),
        when=st.sampled_from(ReclaimWhen),
        working_set=st.sampled_from(WorkingSetReclaim),
    )


@st.composite
def vm(draw: st.DrawFn, uid: str, policy: MemoryTerms | None) -> MemoryVM:
    """Draw one VM in any condition."""
    size = draw(st.integers(64 * MIB, 1 << 36))
    actual = draw(st.integers(1, size))
    excluded, responsive = draw(st.none() | st.just("it has no balloon")), draw(st.booleans())
    return MemoryVM(
        uid=uid,
        name=f"default/{uid}",
        size=size,
        actual=actual,
        overhead=draw(st.integers(0, 256 * MIB)),
        need=draw(st.none() | st.integers(0, size)),
        present_need=draw(st.none() | st.integers(0, size)),
        target=draw(st.none() | st.integers(0, size)),
        troubled=draw(st.booleans()),
        excluded=excluded,
        responsive=responsive,
        policy=policy,
        last_change=draw(st.none() | st.builds(TargetChange, up=st.none() | st.booleans(), age=st.floats(0, 600))),
        swap_ability=draw(st.sampled_from(SwapAbility)),
        agent_action=AgentAction.FOLLOWS if excluded is None and responsive else draw(st.sampled_from(AgentAction)),
        pod_request=draw(st.none() | st.integers(0, 1 << 37)),
        untouched=draw(st.just(0) | st.integers(0, actual)),
    )


@st.composite
def nodes(draw: st.DrawFn) -> MemoryNode:
    """Draw one node with VMs in any condition."""
    governing = st.none() | policies()
    vms = tuple(draw(vm(f"vm-{index}", draw(governing))) for index in range(draw(st.integers(0, 6))))
    total = draw(st.integers(0, 1 << 39))
    return MemoryNode(
        name="node",
        total=total,
        available=draw(st.integers(0, total)),
        other=draw(st.integers(0, total)),
        reserve=draw(st.integers(0, total)),
        state=draw(st.sampled_from(NodeState)),
        vms=vms,
    )
