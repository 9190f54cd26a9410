"""What is concluded from metrics of VMs: gaps, VMs that come and go, and figures that cannot be right."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeballoon.core.units import GIB
from kubeballoon.replay.prometheus import Labels, PrometheusError, Series, TimeRange
from kubeballoon.replay.traces import Trace
from kubeballoon.replay.vm_history import VMHistory, read_history
from kubeballoon.replay.vm_queries import VMQueries

STEP = 300.0
NOTHING = float("nan")


def labels(name: str, **more: str) -> Labels:
    return tuple(sorted({"namespace": "shop", "name": name, **more}.items()))


def series(**values: Sequence[float]) -> Series:
    """Series of VMs by their names, in GiB."""
    return {labels(name): np.array(each) * GIB for name, each in values.items()}


def history(size: Series, need: Series, **more: Series) -> VMHistory:
    count = len(next(iter(size.values()))) if size else 2
    answers: dict[str, Series] = {name: {} for name in VMQueries(STEP).all()}
    return read_history({**answers, "size": size, "need": need, **more}, TimeRange(0.0, (count - 1) * STEP, STEP))


def demands(trace: Trace) -> list[tuple[float, float]]:
    """The demands of a trace by the numbers of instants from which on they hold, GiB."""
    return [(time / STEP, used / GIB) for time, used in zip(trace.times, trace.demand, strict=True)]


def test_a_vm_s_size_and_need_make_a_trace() -> None:
    found = history(series(vm=[4, 4, 4]), series(vm=[1, 2, 2]), disk={labels("vm"): np.array([NOTHING, 10.0, 30.0])})
    (trace,) = found.workload.traces
    assert (trace.name, trace.size, trace.disk_rate) == ("shop/vm", 4 * GIB, 20.0)
    assert demands(trace) == [(0, 1), (1, 2)]
    assert (trace.start, trace.end) == (0, float("inf"))
    assert found.workload.seconds == 3 * STEP
    assert found.notes == []


def test_where_nothing_is_recorded_of_any_vm_the_values_before_hold() -> None:
    a, b = [4, NOTHING, NOTHING, 4, NOTHING, 4], [NOTHING, NOTHING, NOTHING, 2, 2, 2]
    found = history(series(a=a, b=b), series(a=[1, NOTHING, NOTHING, 3, NOTHING, 3], b=[1, 1, 1, 1, 1, 1]))
    assert demands(found.workload.traces[0]) == [(0, 1), (3, 3), (4, 0), (5, 3)]
    assert found.workload.traces[1].start == 3 * STEP
    assert found.notes == ["nothing was recorded of any VM once, for 10m together: the values before hold"]


def test_a_vm_that_is_off_for_long_is_placed_anew_when_it_returns() -> None:
    away = [NOTHING] * 4
    found = history(series(a=[4, 4, *away, 2, 2], b=[4] * 8), series(a=[1, 1, *away, 1, 2], b=[1] * 8))
    first, second, _ = found.workload.traces
    assert (first.name, first.start, first.end, first.size) == ("shop/a", 0, 2 * STEP, 4 * GIB)
    assert (second.name, second.start, second.end, second.size) == ("shop/a #2", 6 * STEP, float("inf"), 2 * GIB)
    assert demands(first) == [(0, 1), (2, 0)]
    assert demands(second) == [(0, 0), (6, 1), (7, 2)]
    assert found.owners["shop/a #2"] == "shop/a"


def test_a_vm_that_is_off_for_a_moment_stays_on_its_node() -> None:
    found = history(series(a=[4, NOTHING, 4], b=[4] * 3), series(a=[1, NOTHING, 1], b=[1] * 3))
    assert len(found.workload.traces) == 2
    assert demands(found.workload.traces[0]) == [(0, 1), (1, 0), (2, 1)]


def test_a_guest_that_is_silent_for_long_counts_with_its_whole_size() -> None:
    for_long = [NOTHING] * 4
    found = history(series(a=[4] * 6, mute=[4] * 6), series(a=[1, *for_long, 2]))
    assert demands(found.workload.traces[0]) == [(0, 1), (1, 4), (5, 2)]
    assert demands(found.workload.traces[1]) == [(0, 4)]
    assert found.notes == ["VMs that never reported what they use count with their whole size: shop/mute"]


def test_a_guest_that_is_silent_for_a_moment_needs_what_it_did_before_or_after() -> None:
    found = history(series(a=[4] * 5), series(a=[NOTHING, 2, NOTHING, NOTHING, 3]))
    assert demands(found.workload.traces[0]) == [(0, 2), (4, 3)]


def test_a_need_above_the_size_counts_as_all_of_it_and_is_told() -> None:
    found = history(series(a=[4, 4, 4]), series(a=[1, 4.5, 1]))
    assert demands(found.workload.traces[0]) == [(0, 1), (1, 4), (2, 1)]
    assert found.notes == ["needs that exceed the VM's size count as all of it: 1 samples"]


@pytest.mark.parametrize(
    ("size", "need", "complaint"),
    [
        ({}, {}, "neither kubeballoon_vm_memory_bytes nor kubevirt_vmi_memory_domain_bytes in this time"),
        (series(a=[4, 4]), {}, "is memBalloonStatsPeriod 0"),
        (series(a=[4, NOTHING]), series(a=[1, NOTHING]), "only one instant"),
        (series(a=[4, 4]), series(a=[1024, 1024]), "needs 1 TiB of its 4 GiB: are its metrics in different units?"),
        (
            {labels("a"): np.array([4096.0, 4096.0])},
            series(a=[1, 1]),
            "has a size of 4096: is its metric not in bytes?",
        ),
        (
            {(("pod", "x"),): np.array([1.0, 1.0])},
            {},
            "no labels namespace and name: are they scraped with honorLabels",
        ),
    ],
)
def test_what_cannot_be_replayed_is_said_in_one_line(size: Series, need: Series, complaint: str) -> None:
    with pytest.raises(PrometheusError, match=complaint) as refused:
        history(size, need)
    assert "\n" not in str(refused.value)


def test_the_memory_of_the_nodes_that_run_vms_is_known() -> None:
    nodes: Series = {
        (("node", name),): np.array([memory * GIB, memory * GIB]) for name, memory in {"a": 64.0, "cp": 8.0}.items()
    }
    found = history(
        series(a=[4, 4]), series(a=[1, 1]), vm_nodes={(("node", "a"),): np.array([1.0, 1.0])}, node_memory=nodes
    )
    assert found.node_memory == [64 * GIB]
    hosts: Series = {(("instance", "10.0.0.1:9100"),): np.array([32.0 * GIB, 32.0 * GIB])}
    assert history(series(a=[4, 4]), series(a=[1, 1]), host_memory=hosts).node_memory == [32 * GIB]


def test_the_last_policy_of_a_vm_and_how_long_it_swapped_are_known() -> None:
    policies = {
        labels("a", policy="old"): np.array([1.0, NOTHING]),
        labels("a", policy="new"): np.array([NOTHING, 1.0]),
    }
    found = history(series(a=[4, 4]), series(a=[1, 1]), policy=policies, swap_in={labels("a"): np.array([0.0, 4096.0])})
    assert found.policies == {"shop/a": "new"}
    assert found.swapping == {"shop/a": 0.5}


@given(st.lists(st.lists(st.sampled_from([NOTHING, 1.0, 3.0]), min_size=12, max_size=12), min_size=1, max_size=4))
def test_demand_is_within_the_size_and_zero_where_a_vm_is_not(recorded: list[list[float]]) -> None:
    needs = {labels(f"vm{number}"): np.array(values) * GIB for number, values in enumerate(recorded)}
    sizes = {each: np.where(np.isnan(values), NOTHING, 2 * GIB) for each, values in needs.items()}
    try:
        found = history(sizes, needs)
    except PrometheusError:
        return
    for trace in found.workload.traces:
        assert 0 <= trace.start < trace.end
        assert trace.demand.max() <= trace.size
        outside = (trace.times < trace.start) | (trace.times >= trace.end)
        assert not trace.demand[outside].any()
        assert trace.times[0] == 0
