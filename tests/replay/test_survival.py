"""A node survives guests and drivers that do not do what is requested of them."""

from __future__ import annotations

import itertools
import math

import pytest

from hack.testbed.workloads import diurnal, surge
from kubeballoon.core.decision_reason import DecisionReason
from kubeballoon.core.memory.model import Amount, MemoryTerms
from kubeballoon.core.units import GIB
from kubeballoon.replay import strategies
from kubeballoon.replay.node_replay import NodeReplay, Recording
from kubeballoon.replay.node_workload import NodeWorkload
from kubeballoon.replay.simulated_guest import BalloonDriver
from kubeballoon.replay.totals import ReplayTotals
from kubeballoon.replay.traces import Workload

MIB = 1 << 20
SECONDS = 1800.0
VMS = 20


def on_one_node(workload: Workload, overcommit: float = 1.6, policy: MemoryTerms | None = None) -> NodeWorkload:
    memory = int(sum(trace.size for trace in workload.traces) / overcommit)
    return NodeWorkload("node0", memory, workload.traces, policy or MemoryTerms("p"), workload.seconds)


def replay(node: NodeWorkload, *drivers: BalloonDriver, skip: bool = True) -> ReplayTotals:
    """Replay a node whose VMs have the given drivers, over and over in their order."""
    return NodeReplay(node, drivers=itertools.cycle(drivers or (BalloonDriver(),)), skip=skip).run()


@pytest.fixture
def node() -> NodeWorkload:
    """Twenty idle VMs of 4 GiB, of which four jump to 85 % of their memory for ten minutes."""
    return on_one_node(surge(VMS, seconds=SECONDS))


def unresponsive(node: NodeWorkload, *drivers: BalloonDriver) -> list[str]:
    """The VMs that count as unresponsive in the end."""
    recording = Recording(point_seconds=node.seconds, decisions_until=node.seconds)
    NodeReplay(node, drivers=itertools.cycle(drivers), recording=recording).run()
    return [decision.vm.name for decision in recording.decisions if decision.reason is DecisionReason.UNRESPONSIVE]


DRIVERS = {
    "a hidden lower limit": (BalloonDriver(floor=3 * GIB), *[BalloonDriver()] * 4),
    "one that sticks now and then": (
        BalloonDriver(stuck=(590.0, 680.0)),
        BalloonDriver(stuck=(1210.0, 1300.0)),
        *[BalloonDriver()] * 3,
    ),
    "one stuck for ever": (BalloonDriver(stuck=(0.0, math.inf)), *[BalloonDriver()] * 19),
    "one stuck beside the starved": (
        *[BalloonDriver()] * 3,
        BalloonDriver(stuck=(300.0, math.inf)),
        *[BalloonDriver()] * 16,
    ),
    "balloons off by a few MiB": (
        BalloonDriver(error=5 * MIB),
        BalloonDriver(error=2 * MIB),
        BalloonDriver(error=12 * MIB),
    ),
    "slow balloons": (BalloonDriver(inflation=GIB / 8, deflation=GIB / 4),),
}


# Bytes that each of the four guests lacks after its jump: the twenty share 47 GiB, and it then works with 3.4 GiB.
LACKED = (0.85 * 4 - 47 / 20) * GIB

# Byte-seconds. Four guests keep more than their minimums of the 47 GiB that all share, and for a while four others lack
# that: 4 * 3 GiB + 12 * 2 GiB + 4 * 3.4 GiB are 2.6 GiB too many.
WITHHELD = {"a hidden lower limit": 2.6 * GIB * SECONDS / 3}


@pytest.mark.parametrize("name", DRIVERS)
def test_the_node_holds_and_nobody_falls_below_its_minimum(node: NodeWorkload, name: str) -> None:
    totals = replay(node, *DRIVERS[name])
    assert totals.exhaustions == 0
    assert totals.below_min_seconds == 0
    # The drivers cost no more than if jumps were seen half an interval late.
    late = 4 * LACKED * node.interval / 2
    assert totals.unmet <= 1.5 * replay(node).unmet + late + WITHHELD.get(name, 0.0)


@pytest.mark.parametrize("name", DRIVERS)
def test_nobody_swings(node: NodeWorkload, name: str) -> None:
    # Demand changes twice, so a target has reason to turn round about twice, in each VM.
    assert replay(node, *DRIVERS[name]).direction_changes <= 2 * VMS


@pytest.mark.parametrize("name", DRIVERS)
def test_at_a_fixed_load_nobody_turns_at_all(name: str) -> None:
    still = on_one_node(surge(VMS, part=0.0, seconds=SECONDS))
    assert replay(still, *DRIVERS[name]).direction_changes == 0


@pytest.mark.parametrize(
    ("drivers", "names"),
    [
        ("one stuck for ever", ["vm0"]),
        ("one stuck beside the starved", ["vm3"]),
        ("balloons off by a few MiB", []),
        ("slow balloons", []),
    ],
)
def test_only_a_driver_that_does_not_follow_counts_as_unresponsive(
    node: NodeWorkload, drivers: str, names: list[str]
) -> None:
    assert unresponsive(node, *DRIVERS[drivers]) == names


def test_minimums_that_do_not_fit_are_kept() -> None:
    node = on_one_node(surge(VMS, seconds=SECONDS), policy=MemoryTerms("p", minimum=Amount(percent=90)))
    totals = replay(node)
    assert totals.below_min_seconds == 0
    assert totals.direction_changes == 0


@pytest.mark.parametrize("overcommit", [1.3, 1.6])
def test_guests_that_grow_beyond_their_share_at_once_wait_about_an_interval(overcommit: float) -> None:
    node = on_one_node(surge(100, seconds=SECONDS), overcommit)
    jump, jumping = (0.85 - 0.3) * 4 * GIB, 20
    totals = replay(node)
    assert totals.unmet <= 1.2 * strategies.clairvoyant(node).unmet + jumping * jump * node.interval
    assert totals.unmet < strategies.static(node).unmet / 10
    assert totals.below_min_seconds == 0
    assert totals.direction_changes < len(node.traces) * SECONDS / node.interval / 120


def test_skipping_rounds_without_effect_changes_nothing() -> None:
    node = on_one_node(diurnal(8, days=0.1), overcommit=1.5)
    drivers = (BalloonDriver(error=MIB // 2), BalloonDriver())
    skipping, complete = replay(node, *drivers), replay(node, *drivers, skip=False)
    assert skipping.unmet == pytest.approx(complete.unmet, rel=0.02, abs=GIB)
    assert skipping.moved == pytest.approx(complete.moved, rel=0.1)
    assert skipping.below_min_seconds == complete.below_min_seconds == 0
