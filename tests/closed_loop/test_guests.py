"""What is done about guests that read files by page faults, guests that fall silent, and guests that boot together."""

from __future__ import annotations

import pytest

from hack.testbed.closed_loop import EVICTION_THRESHOLD, ClosedLoop, ModelGuest, constant, memory_policy, ramp
from kubeballoon.core.units import GIB, MIB
from kubeballoon.vocabulary import NodeState

QUARTER = memory_policy("quarter", min="25%")


READS = [
    pytest.param(0.0, 0.0, id="read calls"),
    pytest.param(150.0, 0.0, id="Linux, mmap, now and then"),
    pytest.param(300.0, 0.0, id="Linux, mmap"),
    pytest.param(40.0, 20.0 * MIB, id="Windows copies files"),
    pytest.param(10.0, 1.5 * MIB, id="Windows prefetches"),
]


@pytest.mark.parametrize(("file_faults", "paging_reads"), READS)
def test_guests_that_read_files_give_their_page_cache(file_faults: float, paging_reads: float) -> None:
    guests = [
        ModelGuest(
            f"reader-{index}",
            8 * GIB,
            QUARTER,
            constant(2 * GIB),
            cache=constant(8 * GIB),
            fill_rate=50 * MIB,
            file_faults=file_faults,
            paging_reads=paging_reads,
        )
        for index in range(4)
    ]
    loop = ClosedLoop(20 * GIB, guests, period=1.0).run(1200)
    assert loop.state is NodeState.AMPLE
    assert loop.lowest_available > EVICTION_THRESHOLD
    assert all(2 * GIB <= guest.actual <= 5 * GIB for guest in guests)


@pytest.mark.parametrize(("file_faults", "paging_reads"), READS)
def test_a_guest_that_reads_files_gives_all_but_its_minimum_to_a_node_that_becomes_short(
    file_faults: float, paging_reads: float
) -> None:
    """Pods come to use 11.2 GiB of a node of 16 GiB, whose guest of 8 GiB works with 2 GiB and is sure of 4."""
    policy = memory_policy("half", min="50%")
    reader = ModelGuest(
        "reader",
        8 * GIB,
        policy,
        constant(2 * GIB),
        cache=constant(8 * GIB),
        fill_rate=50 * MIB,
        file_faults=file_faults,
        paging_reads=paging_reads,
    )
    other = ramp(2 * GIB, 11.2 * GIB, start=300, rate=0.5 * GIB)
    loop = ClosedLoop(16 * GIB, [reader], other=other, period=1.0).run(300)
    assert reader.actual > 7 * GIB
    loop.run(420)
    assert reader.actual <= 4.1 * GIB
    assert reader.lowest_actual >= 4 * GIB
    assert reader.unmet == 0


@pytest.mark.parametrize("when", ["Overcommitted", "UnderPressure"])
def test_a_guest_whose_statistics_stop_has_its_memory_back_while_memory_is_ample(when: str) -> None:
    policy = memory_policy("p", min="25%", reclaim={"when": when})
    silent = ModelGuest(
        "silent", 8 * GIB, policy, constant(2 * GIB), cache=constant(6 * GIB), fill_rate=50 * MIB, reports_until=600
    )
    busy = ModelGuest("busy", 8 * GIB, policy, lambda now: 7 * GIB if now < 900 else GIB)
    loop = ClosedLoop(12 * GIB, [silent, busy], period=1.0).run(600)
    assert silent.actual < 6 * GIB
    loop.run(2400)
    assert loop.state is NodeState.AMPLE
    assert loop.lowest_available > EVICTION_THRESHOLD, "what others work with meanwhile is not returned a second time"
    assert silent.actual == silent.size


@pytest.mark.parametrize("touch_rate", [0.0, 96.0 * MIB], ids=["Linux", "Windows"])
def test_a_node_that_boots_twenty_vms_at_once_never_runs_out(touch_rate: float) -> None:
    guests = [
        ModelGuest(
            f"vm-{index:02}",
            8 * GIB,
            QUARTER,
            constant(1.5 * GIB),
            cache=constant(4 * GIB),
            fill_rate=50 * MIB,
            swap=2 * GIB,
            boot_seconds=20 + index % 5,
            touch_rate=touch_rate,
        )
        for index in range(20)
    ]
    loop = ClosedLoop(96 * GIB, guests, other=constant(2 * GIB)).run(400)
    assert loop.lowest_available > EVICTION_THRESHOLD
    assert sum(guest.unmet for guest in guests) == 0
    assert loop.state is NodeState.AMPLE
