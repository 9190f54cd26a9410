"""Traces, as published and as documented, and their place on nodes."""

from __future__ import annotations

from pathlib import Path

import pytest

from kubeballoon.replay.placement import place
from kubeballoon.replay.traces import TraceError, read_traces, step_trace

GIB = 1 << 30
SIMPLE = "seconds,size_bytes,used_bytes\n"
GWA = "Timestamp [ms];\tCPU cores;\tMemory capacity provisioned [KB];\tMemory usage [KB];\tDisk [KB/s]\n"


def test_the_simple_format(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(SIMPLE + "100,4096,1024\n110,4096,1024\n120,4096,9999\n")
    workload = read_traces(tmp_path)
    (trace,) = workload.traces
    assert (trace.name, trace.size) == ("a", 4096)
    assert trace.times.tolist() == [0, 20, 30]
    assert trace.demand.tolist() == [1024, 4096, 0]  # never beyond its size; over after one more step
    assert workload.seconds == 30


@pytest.mark.parametrize("step", [300, 300_000])
def test_the_gwa_format_in_seconds_as_published_or_in_milliseconds_as_it_says(tmp_path: Path, step: int) -> None:
    rows = [f"{index * step};\t2;\t{4096 if index else 0};\t{index * 10};\t0\n" for index in range(3)]
    (tmp_path / "1.csv").write_text(GWA + "".join(rows))
    (tmp_path / "2.csv").write_text(GWA)
    workload = read_traces(tmp_path)
    (trace,) = workload.traces
    assert trace.size == 4096 << 10
    assert trace.times.tolist() == [0, 300, 600, 900]
    assert trace.demand.tolist() == [0, 10 << 10, 20 << 10, 0]
    assert workload.skipped == ("2",)


# From GWA-T-12 Bitbrains, rnd/2013-7/122.csv.
REPEATED = """\
Timestamp [ms];	CPU cores;	Memory capacity provisioned [KB];	Memory usage [KB];	Disk read throughput [KB/s];	\
Disk write throughput [KB/s]
1373963136;	4;	1.6703488E7;	134217.6;	0.0;	3.6
1373963436;	0;	1.6703488E7;	100663.2;	0.0;	0.0
1373963436;	0;	1.6703488E7;	167772.0;	0.0;	0.0
1373963736;	0;	1.6703488E7;	167772.0;	0.0;	0.0
1373963736;	0;	1.6703488E7;	167772.0;	0.0;	0.0
1373963736;	0;	0.0;	0.0;	0.0;	0.0
"""


def test_of_samples_with_one_time_the_last_counts(tmp_path: Path) -> None:
    (tmp_path / "122.csv").write_text(REPEATED)
    (trace,) = read_traces(tmp_path).traces
    assert trace.times.tolist() == [0, 300, 600]
    assert trace.demand.tolist() == [int(134217.6 * 1024), int(167772.0 * 1024), 0]


def test_what_a_vm_read_and_wrote_is_its_disk_rate(tmp_path: Path) -> None:
    (tmp_path / "122.csv").write_text(REPEATED)
    assert read_traces(tmp_path).traces[0].disk_rate == pytest.approx(3.6 * 1024 / 3)
    (tmp_path / "122.csv").write_text(SIMPLE + "0,2,1\n")
    assert read_traces(tmp_path).traces[0].disk_rate is None


@pytest.mark.parametrize("start", [0, 1_373_963_136_000])
def test_milliseconds_in_the_column_of_seconds_are_refused(tmp_path: Path, start: int) -> None:
    (tmp_path / "vm.csv").write_text(SIMPLE + "".join(f"{start + index * 300_000},2,1\n" for index in range(3)))
    with pytest.raises(TraceError, match="the column seconds seems to hold milliseconds: divide it by 1000"):
        read_traces(tmp_path)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", ":1: no known header"),
        ("a,b,c\n", ":1: no known header"),
        (SIMPLE + "1,2\n", ":2: only 2 of at least 3 columns"),
        (SIMPLE + "1,2,x\n", ":2: could not convert"),
        (SIMPLE + "1,2,nan\n", ":2: time, size and use must be numbers from 0 to 2^50"),
        (SIMPLE + "1,2,1e306\n", ":2: time, size and use must be numbers from 0 to 2^50"),
        (SIMPLE + "1,2,-3\n", ":2: time, size and use must be numbers from 0 to 2^50"),
        (SIMPLE + "5,2,1\n4,2,1\n", ":3: time 4 does not come after 5"),
    ],
)
def test_a_bad_file_is_named_with_its_line(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "vm.csv"
    path.write_text(text)
    with pytest.raises(TraceError) as refused:
        read_traces(tmp_path)
    assert str(refused.value).startswith(f"{path}{complaint}")


def test_what_holds_no_traces_is_said(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"holds no \.csv file"):
        read_traces(tmp_path)
    (tmp_path / "vm.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TraceError, match="not a CSV file"):
        read_traces(tmp_path)
    with pytest.raises(TraceError, match="not a directory"):
        read_traces(tmp_path / "vm.csv")


def test_vms_are_placed_by_number_until_the_ratio_is_reached(tmp_path: Path) -> None:
    for number in (10, 9, 1, 2):
        (tmp_path / f"{number}.csv").write_text(SIMPLE + f"0,{4 * GIB},{GIB}\n")
    nodes = place(read_traces(tmp_path).traces, 4 * GIB, 2)
    assert [[trace.name for trace in node] for node in nodes] == [["1", "2"], ["9", "10"]]


def test_a_vm_too_large_for_a_node_still_gets_one() -> None:
    traces = [step_trace(str(index), 8 * GIB, [0.0], [GIB]) for index in range(2)]
    assert [len(node) for node in place(traces, 4 * GIB, 1)] == [1, 1]
