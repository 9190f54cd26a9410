"""The limits of the benchmarks; the benchmarks themselves are not run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from hack.bench import __main__ as bench
from hack.bench import clock, migrations, recorded
from hack.bench.limits import LIMITS, Rows, exceeded
from hack.bench.replay import unmet_by_delay, with_limits
from hack.testbed.workloads import DAY, diurnal, surge
from kubeballoon.core.memory.model import Amount, MemoryTerms
from kubeballoon.core.units import GIB
from kubeballoon.replay.comparison import ReplaySettings
from kubeballoon.replay.traces import Trace, Workload, step_trace
from kubeballoon.vocabulary import ReclaimWhen

CHEAP = {"vms": 50, "core_percent": 1.9, "resident_mib": 99.0, "writes_per_minute": 2.0}


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        (CHEAP, []),
        ({**CHEAP, "core_percent": 2.65}, ["agent: core_percent is 2.65, and may be 2"]),
        ({**CHEAP, "resident_mib": 102.3}, ["agent: resident_mib is 102.3, and may be 100"]),
        ({**CHEAP, "writes_per_minute": 4.0}, ["agent: writes_per_minute is 4, and may be 2"]),
    ],
)
def test_what_an_agent_may_cost_is_held(row: dict[str, object], messages: list[str]) -> None:
    assert list(exceeded("agent", [CHEAP, row])) == messages


@pytest.mark.parametrize(("seconds", "fails"), [(1.6, 0), (1.8, 1)])
def test_a_limit_that_is_exceeded_fails_the_run_and_is_named(
    seconds: float, fails: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"kubeballoon_seconds": seconds, "libvirt_seconds": 0.5, "allowed_seconds": 1.75}

    def measured() -> Rows:
        return [row]

    monkeypatch.setitem(bench.BENCHMARKS, "reaction", measured)
    assert bench.main(["reaction", f"--output={tmp_path / 'bench.json'}"]) == fails
    assert ("LIMIT EXCEEDED: reaction: kubeballoon_seconds" in capsys.readouterr().err) == bool(fails)


@pytest.mark.parametrize(
    ("ours", "static", "optimum", "most"),
    [
        (0.5, 100.0, 0.2, 0.6),  # once and a half the optimum, and what is seen late
        (0.7, 100.0, 0.2, 0.6),
        (0.5, 4.0, 0.2, 0.4),  # a tenth of the static split is less
        (80.0, 200.0, 75.0, 112.8),  # where the optimum leaves a third of it, nobody reaches a tenth
    ],
)
def test_what_guests_lack_is_held_to_the_optimum_and_the_static_split(
    ours: float, static: float, optimum: float, most: float
) -> None:
    unmet = {"kubeballoon": ours, "static": static, "none": 0.0, "clairvoyant": optimum}
    rows = [{"strategy": name, "overcommit": 1.5, "unmet_gib_hours": value} for name, value in unmet.items()]
    found = with_limits(rows, unmet_by_delay=0.3)
    assert [row["allowed_gib_hours"] for row in found if "allowed_gib_hours" in row] == [pytest.approx(most)]
    assert len(list(exceeded("replay", found))) == (ours > most)


def test_only_rises_beyond_the_headroom_are_seen_late() -> None:
    workload = surge(10, size=4 * GIB, idle=0.25, part=0.2, peak=0.75)
    rises = 2 * (2 - 0.4)  # GiB: two VMs jump by half their size, and have a tenth
    assert unmet_by_delay(workload, ReplaySettings(64 * GIB, MemoryTerms("p"), interval=10.0)) == pytest.approx(
        rises * 5 / 3600
    )
    assert unmet_by_delay(workload, ReplaySettings(64 * GIB, MemoryTerms("p", headroom=Amount(percent=50)))) == 0


@pytest.mark.parametrize(
    ("when", "optimum", "unmet_without", "killed_without", "most"),
    [
        ("Overcommitted", 0.0, 5.0, 0, 0.1),  # a ten-thousandth of the demand
        ("Overcommitted", 2.0, 5.0, 0, 2.2),  # a tenth more than the optimum
        ("Overcommitted", 2.0, 1.5, 3, 1.5),  # where VMs are killed without balloons, no more than stays unmet then
        ("Overcommitted", 2.0, 1.5, 0, 2.2),
        ("UnderPressure", 0.0, 5.0, 0, 5.0),
    ],
)
def test_recorded_traces_are_held_to_the_optimum_and_to_no_balloon(
    when: str, optimum: float, unmet_without: float, killed_without: int, most: float
) -> None:
    unmet = {"kubeballoon": 0.05, "static": 9.0, "none": unmet_without, "clairvoyant": optimum}
    runs = [
        {
            "strategy": name,
            "overcommit": 2.0,
            "unmet_gib_hours": value,
            "demand_gib_hours": 1000.0,
            "vms_killed": killed_without if name == "none" else 0,
        }
        for name, value in unmet.items()
    ]
    found = recorded.with_limits(runs, ReclaimWhen(when))
    assert [row["allowed_gib_hours"] for row in found if "allowed_gib_hours" in row] == [pytest.approx(most)]


def test_recorded_traces_are_a_benchmark_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measured(directory: Path) -> Rows:
        assert directory == tmp_path
        return [{"unmet_gib_hours": 0.2, "allowed_gib_hours": 0.1}]

    monkeypatch.setattr(recorded, "rows", measured)
    assert bench.main([f"--traces={tmp_path}", f"--output={tmp_path / 'bench.json'}"]) == 1
    assert "LIMIT EXCEEDED: recorded: unmet_gib_hours" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        bench.main(["replay", f"--traces={tmp_path}"])
    with pytest.raises(SystemExit):
        bench.main(["migrations"])


def test_every_limit_is_of_a_benchmark() -> None:
    assert LIMITS.keys() <= bench.BENCHMARKS.keys() | bench.WITH_TRACES.keys()


def test_vms_are_repeated_each_time_a_day_later() -> None:
    recorded = diurnal(3, days=2)
    repeated = migrations.repeated(recorded, 7)
    assert [trace.name for trace in repeated.traces] == ["vm0-0", "vm1-0", "vm2-0", "vm0-1", "vm1-1", "vm2-1", "vm0-2"]
    first, later, again = (trace for trace in repeated.traces if trace.name.startswith("vm0"))

    def at(trace: Trace, seconds: float) -> int:
        return int(trace.demand[np.searchsorted(trace.times, seconds, side="right") - 1])

    hours = np.arange(0.0, DAY, 3600.0)
    assert [at(later, hour) for hour in hours] == [at(first, hour + DAY) for hour in hours]
    assert [at(later, hour + DAY) for hour in hours] == [at(first, hour) for hour in hours], "it wraps round"
    assert again.demand.tolist() == first.demand.tolist()


def test_an_hour_s_shape_foretells_a_rise_that_comes_each_day_and_none_that_comes_once() -> None:
    times = np.arange(0.0, 5 * DAY, 300.0)
    daily = np.where(times % DAY // 3600 == 9, 8, 1)  # GiB
    once = np.where((times > 4.5 * DAY) & (times < 4.6 * DAY), 8, 1)

    def found(need: npt.NDArray[np.int64]) -> dict[str, dict[str, Any]]:
        trace = step_trace("vm", 16 * GIB, times, need * GIB)
        return {row["way"]: row for row in clock.compare(Workload((trace,), 5 * DAY))}

    assert (found(daily)["headroom"]["rises_beyond"], found(daily)["shape, median"]["rises_beyond"]) == (2, 0)
    assert (found(once)["headroom"]["rises_beyond"], found(once)["shape, median"]["rises_beyond"]) == (1, 1)
    by_way = found(daily)
    assert by_way["headroom for median"]["held_gib"] == pytest.approx(by_way["shape, median"]["held_gib"], rel=0.01)


def test_few_vms_are_migrated_and_compared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, size, used in (("a", 40, 30), ("b", 40, 30), ("c", 40, 4), ("d", 40, 4)):
        lines = [f"{hour * 3600},{size * GIB},{(used if hour % 24 else 4) * GIB}" for hour in range(24)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["seconds,size_bytes,used_bytes", *lines]) + "\n")
    monkeypatch.setattr(migrations, "VMS", 4)
    monkeypatch.setattr(migrations, "RATIOS", (1.5,))
    rows = {row["strategy"]: row for row in migrations.rows(tmp_path)}
    assert list(rows) == list(migrations.STRATEGIES)
    assert all(row["demand_gib_hours"] == rows["no migration"]["demand_gib_hours"] for row in rows.values())
    assert rows["optimum of one node"]["unmet_gib_hours"] <= rows["optimum of each node"]["unmet_gib_hours"]
    assert not list(exceeded("migrations", list(rows.values())))
