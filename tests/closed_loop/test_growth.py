"""What is done about a guest that comes to work with much more memory within seconds."""

from __future__ import annotations

from itertools import pairwise

import pytest

from hack.testbed.closed_loop import EVICTION_THRESHOLD, ClosedLoop, ModelGuest, constant, memory_policy, ramp
from kubeballoon.core.units import GIB, MIB
from kubeballoon.vocabulary import NodeState

QUARTER = memory_policy("quarter", min="25%")
START = 300.3
BEFORE, AFTER = 0.3 * GIB, 1.7 * GIB


def load_beside_an_idle_guest(total: float, rate: float) -> ClosedLoop:
    """Two guests of 2 GiB on a node of ``total`` GiB, of which one comes to work with 1.4 GiB more."""
    guests = [
        ModelGuest("busy", 2 * GIB, QUARTER, ramp(BEFORE, AFTER, START, rate * GIB)),
        ModelGuest("calm", 2 * GIB, QUARTER, constant(BEFORE), cache=constant(GIB), fill_rate=20 * MIB),
    ]
    return ClosedLoop(int(total * GIB), guests, period=0.1).run(START)


@pytest.mark.parametrize(
    ("total", "rate", "unmet"),
    [(2.8, 0.2, 600), (2.8, 0.4, 600), (3.2, 0.2, 400), (3.2, 0.4, 400), (3.6, 0.4, 60), (4.0, 0.2, 0), (4.0, 0.4, 0)],
)
def test_a_guest_that_grows_fast_is_asked_for_nothing_meanwhile(total: float, rate: float, unmet: int) -> None:
    """All of it fits; ``unmet`` is the most that the guest may lack until it has it, MiB times seconds."""
    loop = load_beside_an_idle_guest(total, rate)
    busy, earlier = loop.guest("busy"), len(loop.guest("busy").requests)
    loop.run(START + (AFTER - BEFORE) / (rate * GIB) + 2)
    requests = [request for _, request in busy.requests[earlier:]]
    assert all(before <= after for before, after in pairwise(requests)), requests
    assert not requests or requests[0] >= busy.lowest_actual
    loop.run(START + 30)
    assert busy.unmet <= unmet * MIB
    assert busy.actual >= AFTER
    assert loop.guest("calm").lowest_actual >= GIB // 2, "its minimum"
    assert loop.lowest_available > EVICTION_THRESHOLD
    assert loop.state is NodeState.AMPLE
