"""What VMs used, read from one CSV a VM.

Two formats, told apart by their header; other columns may stand between and after the ones named, in any order.

- GWA-T-12 Bitbrains (Shen et al., "Statistical Characterization of Business-Critical Workloads Hosted in Cloud
  Datacenters", CCGrid 2015): semicolons, with ``Timestamp [ms]``, ``Memory capacity provisioned [KB]`` and
  ``Memory usage [KB]``. As published, its timestamps are in seconds whatever the header says, a tab follows each
  semicolon, the provisioned capacity wavers and is zero while a VM is off, and some files hold a header alone.
- Simple: commas, with ``seconds``, ``size_bytes`` and ``used_bytes``.

A sample holds until the next one, and the last for as long as samples of its file usually do. A VM demands nothing
before its first sample and after its last. Its size is the largest capacity it ever had, for that is what it was
booted with, and it keeps its place on its node while it is off.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

Seconds = npt.NDArray[np.float64]
Bytes = npt.NDArray[np.int64]

_MILLISECOND_STEP = 10_000  # no one samples a VM every three hours, and few more often than every ten seconds
_MILLISECOND_EPOCH = 1e11  # 1973 in milliseconds, the year 5138 in seconds


class TraceError(ValueError):
    """A trace cannot be used; the message names the file and, where it can, the line."""


@dataclass(frozen=True, slots=True)
class Trace:
    """What one VM used.

    Attributes:
        size: the VM's memory in bytes.
        times: when the demand changes, seconds since the start of the workload; increasing, the first is 0.
        demand: memory in use from each of those times on, bytes.
    """

    name: str
    size: int
    times: Seconds
    demand: Bytes


@dataclass(frozen=True, slots=True)
class Workload:
    """The VMs to replay, in the order in which nodes are filled.

    Attributes:
        seconds: how long the workload lasts.
        skipped: names of the VMs that recorded nothing, so have neither size nor demand.
    """

    traces: tuple[Trace, ...]
    seconds: float
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Format:
    delimiter: str
    time: str
    size: str
    used: str
    unit: int


_FORMATS = (
    _Format(";", "Timestamp [ms]", "Memory capacity provisioned [KB]", "Memory usage [KB]", 1024),
    _Format(",", "seconds", "size_bytes", "used_bytes", 1),
)


@dataclass(frozen=True, slots=True)
class _Record:
    """One file as it stands: ``rows`` of time, size and use, in the units of its format."""

    name: str
    rows: npt.NDArray[np.float64]
    format: _Format


def read(directory: Path) -> Workload:
    """Read every CSV of a directory, in the order of their names with numbers by value.

    Raises:
        TraceError: there are none, or one is not as described above.
    """
    try:
        paths = sorted(directory.glob("*.csv"), key=lambda path: natural_order(path.stem))
        records = [_read_file(path) for path in paths]
    except OSError as error:
        raise TraceError(f"{error.filename or directory}: {error.strerror}") from None
    if not directory.is_dir():
        raise TraceError(f"{directory}: not a directory")
    if not records:
        raise TraceError(f"{directory}: holds no .csv file")
    filled = _in_seconds([record for record in records if len(record.rows)])
    sized = [record for record in filled if record.rows[:, 1].max() >= 1]
    if not sized:
        raise TraceError(f"{directory}: no VM recorded anything")
    skipped = {record.name for record in records} - {record.name for record in sized}
    start = min(record.rows[0, 0] for record in sized)
    ends = [record.rows[-1, 0] - start + _usual_step(record.rows[:, 0]) for record in sized]
    return Workload(
        traces=tuple(_trace(record, start, end) for record, end in zip(sized, ends, strict=True)),
        seconds=float(max(ends)),
        skipped=tuple(record.name for record in records if record.name in skipped),
    )


def natural_order(name: str) -> list[tuple[int, str]]:
    """A sort key that takes the numbers in a name by value: vm9 before vm10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", name)]


def step_trace(name: str, size: int, times: Iterable[float], demand: Iterable[int]) -> Trace:
    """A trace without the samples that change nothing and with demand kept within the size; nothing before its first.

    Args:
        name: unique among the VMs of a workload.
        size: bytes.
        times: seconds since the start of the workload, increasing.
        demand: bytes from each of those times on.
    """
    at: Seconds = np.fromiter(times, np.float64)
    used: Bytes = np.clip(np.fromiter(demand, np.int64), 0, size)
    if not len(at) or at[0] > 0:
        at, used = np.concatenate([[0.0], at]), np.concatenate([[0], used])
    news = np.concatenate([[True], np.diff(used) != 0])
    return Trace(name, size, at[news], used[news])


def _read_file(path: Path) -> _Record:
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            header = file.readline()
            layout = next((layout for layout in _FORMATS if _fits(layout, header)), None)
            if layout is None:
                wanted = " or ".join(
                    layout.delimiter.join((layout.time, layout.size, layout.used)) for layout in _FORMATS
                )
                raise TraceError(f"{path}:1: no known header; expected columns {wanted}")
            names = _fields(header, layout)
            places = [names.index(name) for name in (layout.time, layout.size, layout.used)]
            rows = _rows(path, csv.reader(file, delimiter=layout.delimiter), places)
        except (UnicodeDecodeError, csv.Error):
            raise TraceError(f"{path}: not a CSV file") from None
    return _Record(path.stem, np.array(rows, dtype=np.float64).reshape(-1, 3), layout)


def _fields(line: str, layout: _Format) -> list[str]:
    return [field.strip() for field in line.split(layout.delimiter)]


def _fits(layout: _Format, header: str) -> bool:
    return {layout.time, layout.size, layout.used} <= set(_fields(header, layout))


def _rows(path: Path, lines: Iterable[list[str]], places: Sequence[int]) -> list[tuple[float, ...]]:
    rows: list[tuple[float, ...]] = []
    last = -math.inf
    for number, fields in enumerate(lines, start=2):
        if not any(fields):
            continue
        try:
            row = tuple(float(fields[place]) for place in places)
        except IndexError:
            raise TraceError(f"{path}:{number}: only {len(fields)} of at least {max(places) + 1} columns") from None
        except ValueError as error:
            raise TraceError(f"{path}:{number}: {error}") from None
        if not all(0 <= value < math.inf for value in row):
            raise TraceError(f"{path}:{number}: time, size and use must be finite and not negative")
        if row[0] <= last:
            raise TraceError(f"{path}:{number}: time {row[0]:.15g} does not come after {last:.15g}")
        last = row[0]
        rows.append(row)
    return rows


def _in_seconds(records: Sequence[_Record]) -> list[_Record]:
    """The records in seconds and bytes; whether GWA timestamps are milliseconds shows in all of them together."""
    gwa = [record for record in records if record.format is _FORMATS[0]]
    steps = np.concatenate([np.diff(record.rows[:, 0]) for record in gwa] or [np.empty(0)])
    latest = max((record.rows[-1, 0] for record in gwa), default=0.0)
    milliseconds = latest >= _MILLISECOND_EPOCH or (len(steps) and np.median(steps) >= _MILLISECOND_STEP)

    def scaled(record: _Record) -> _Record:
        time = 1e-3 if milliseconds and record.format is _FORMATS[0] else 1.0
        return replace(record, rows=record.rows * (time, record.format.unit, record.format.unit))

    return [scaled(record) for record in records]


def _usual_step(times: Seconds) -> float:
    return float(np.median(np.diff(times))) if len(times) > 1 else 1.0


def _trace(record: _Record, start: float, end: float) -> Trace:
    times = np.append(record.rows[:, 0] - start, end)
    demand = np.append(record.rows[:, 2], 0).astype(np.int64)
    return step_trace(record.name, int(record.rows[:, 1].max()), times, demand)
