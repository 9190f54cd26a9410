"""This module reads traces of the memory that VMs used, from one CSV file per VM.

There are two formats, which are distinguished by the header. The columns may be in any order, among others.

- GWA-T-12 Bitbrains (Shen et al., "Statistical Characterization of Business-Critical Workloads Hosted in Cloud
  Datacenters", CCGrid 2015): semicolons between the columns ``Timestamp [ms]``, ``Memory capacity provisioned [KB]``
  and ``Memory usage [KB]``. In the published files timestamps are in seconds in spite of the header, a tab follows each
  semicolon, the provisioned capacity varies and is zero while a VM is off, and some files hold only a header. Where
  ``Disk read throughput [KB/s]`` and ``Disk write throughput [KB/s]`` are there, they say how fast page caches grow.
- Simple: commas between the columns ``seconds``, ``size_bytes`` and ``used_bytes``.

Published files repeat time stamps here and there: of samples with one time the last counts. A sample holds until the
next one, and the last one for the median time between samples of its file. A VM demands nothing before its first sample
and after its last. Its size is the largest capacity it ever had, since it was booted with that. A VM that is off stays
on its node.
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

SecondsArray = npt.NDArray[np.float64]
BytesArray = npt.NDArray[np.int64]

# Timestamps are milliseconds if samples are this far apart: hardly anyone samples a VM every three hours, or more often
# than every ten seconds.
_MILLISECOND_STEP = 10_000
_MILLISECOND_EPOCH = 1e11  # 1973 in milliseconds, the year 5138 in seconds
_MOST = 2.0**50  # of a time, size or use: 1 PiB in bytes, and in KiB still within 64 bits


class TraceError(ValueError):
    """A trace cannot be used; the message names the file and, if one is at fault, the line."""


@dataclass(frozen=True, slots=True)
class Trace:
    """A Trace is the memory that one VM used over time.

    Attributes:
        size: the VM's memory, bytes.
        times: when the demand changes, seconds since the start of the workload; increasing, the first is 0.
        demand: the memory in use from each of these times on, bytes.
        disk_rate: what the VM read from disks and wrote to them on average, bytes a second; None if not recorded.
        start: when the VM starts on its node, seconds; 0 if it runs from the beginning.
        end: when it leaves the node for good, seconds; infinite if it does not. From then on it demands nothing.
    """

    name: str
    size: int
    times: SecondsArray
    demand: BytesArray
    disk_rate: float | None = None
    start: float = 0.0
    end: float = math.inf


@dataclass(frozen=True, slots=True)
class Workload:
    """A Workload is the VMs to replay, in the order in which nodes are filled with them.

    Attributes:
        seconds: how long the workload lasts.
        skipped: the names of VMs that are left out because nothing was recorded of them.
    """

    traces: tuple[Trace, ...]
    seconds: float
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Format:
    """A _Format is the layout of a kind of file.

    Attributes:
        delimiter: what stands between two columns.
        time, size, used: the names of the columns that it must have.
        disk: the names of columns that it may have: what was read from disks, and written to them, in a second.
        unit: that of all columns but the time, bytes.
    """

    delimiter: str
    time: str
    size: str
    used: str
    disk: tuple[str, ...]
    unit: int


_GWA = _Format(
    ";",
    "Timestamp [ms]",
    "Memory capacity provisioned [KB]",
    "Memory usage [KB]",
    ("Disk read throughput [KB/s]", "Disk write throughput [KB/s]"),
    1024,
)
_SIMPLE = _Format(",", "seconds", "size_bytes", "used_bytes", (), 1)
_FORMATS = (_GWA, _SIMPLE)


@dataclass(frozen=True, slots=True)
class _Record:
    """A _Record is the content of one file.

    Attributes:
        rows: time, size, use, and what was read and written in a second, in the units of the format.
        disk: whether the file says what was read and written; the last column is 0 otherwise.
    """

    name: str
    rows: npt.NDArray[np.float64]
    format: _Format
    disk: bool = False


def read_traces(directory: Path) -> Workload:
    """Read all CSV files of a directory, in the natural order of their names.

    Raises:
        TraceError: there is no CSV file, none recorded anything, or one is in neither format, or in milliseconds
            where it says seconds.
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
    converted = _in_seconds_and_bytes([record for record in records if len(record.rows)])
    sized = [record for record in converted if record.rows[:, 1].max() >= 1]
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
    """Make a sort key that compares numbers in names by value: vm9 comes before vm10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", name)]


def step_trace(
    name: str, size: int, times: Iterable[float], demand: Iterable[int], disk_rate: float | None = None
) -> Trace:
    """Make a trace from samples: demand is clamped to the size, and zero before the first sample.

    Args:
        name: the VM's, unique in a workload.
        size: the VM's memory, bytes.
        times: seconds since the start of the workload, increasing.
        demand: the memory in use from each of these times on, bytes.
        disk_rate: what the VM read and wrote on average, bytes a second; None if it is not known.
    """
    changed_at: SecondsArray = np.fromiter(times, np.float64)
    used: BytesArray = np.clip(np.fromiter(demand, np.int64), 0, size)
    if not len(changed_at) or changed_at[0] > 0:
        changed_at, used = np.concatenate([[0.0], changed_at]), np.concatenate([[0], used])
    changes = np.concatenate([[True], np.diff(used) != 0])
    return Trace(name, size, changed_at[changes], used[changes], disk_rate)


def _read_file(path: Path) -> _Record:
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            header = file.readline()
            file_format = next((each for each in _FORMATS if _has_columns(header, each)), None)
            if file_format is None:
                known = " or ".join(each.delimiter.join((each.time, each.size, each.used)) for each in _FORMATS)
                raise TraceError(f"{path}:1: no known header; expected columns {known}")
            names = _column_names(header, file_format)
            columns = [names.index(name) for name in (file_format.time, file_format.size, file_format.used)]
            disk = [names.index(name) for name in file_format.disk if name in names]
            rows = _parse_rows(path, csv.reader(file, delimiter=file_format.delimiter), columns + disk)
        except (UnicodeDecodeError, csv.Error):
            raise TraceError(f"{path}: not a CSV file") from None
    table = np.array(rows, dtype=np.float64).reshape(-1, len(columns) + len(disk))
    table = np.column_stack([table[:, : len(columns)], table[:, len(columns) :].sum(axis=1)])
    _refuse_milliseconds(path, file_format, table)
    return _Record(path.stem, table, file_format, bool(disk))


def _refuse_milliseconds(path: Path, file_format: _Format, rows: npt.NDArray[np.float64]) -> None:
    """Refuse a column of seconds that can only be milliseconds: a replay of it would last a thousand times as long."""
    times = rows[:, 0]
    if file_format is _SIMPLE and len(times) and _are_milliseconds(times[-1], np.diff(times)):
        raise TraceError(f"{path}: the column seconds seems to hold milliseconds: divide it by 1000")


def _are_milliseconds(latest: float, steps: SecondsArray) -> bool:
    """Whether times can hardly be seconds: they end in a year of five digits, or are hours apart."""
    return bool(latest >= _MILLISECOND_EPOCH or (len(steps) and np.median(steps) >= _MILLISECOND_STEP))


def _column_names(header: str, file_format: _Format) -> list[str]:
    return [name.strip() for name in header.split(file_format.delimiter)]


def _has_columns(header: str, file_format: _Format) -> bool:
    return {file_format.time, file_format.size, file_format.used} <= set(_column_names(header, file_format))


def _parse_rows(path: Path, lines: Iterable[list[str]], columns: Sequence[int]) -> list[tuple[float, ...]]:
    """Parse and check the lines below the header; each row holds the columns of one sample, and the time is the first.

    Of samples with the same time, the last counts.
    """
    rows: list[tuple[float, ...]] = []
    for number, fields in enumerate(lines, start=2):
        if not any(fields):
            continue
        try:
            row = tuple(float(fields[column]) for column in columns)
        except IndexError:
            raise TraceError(f"{path}:{number}: only {len(fields)} of at least {max(columns) + 1} columns") from None
        except ValueError as error:
            raise TraceError(f"{path}:{number}: {error}") from None
        if not all(0 <= value <= _MOST for value in row):
            raise TraceError(f"{path}:{number}: time, size and use must be numbers from 0 to 2^50")
        if rows and row[0] < rows[-1][0]:
            raise TraceError(f"{path}:{number}: time {row[0]:.15g} does not come after {rows[-1][0]:.15g}")
        if rows and row[0] == rows[-1][0]:
            rows.pop()
        rows.append(row)
    return rows


def _in_seconds_and_bytes(records: Sequence[_Record]) -> list[_Record]:
    """Convert records to seconds and bytes; all GWA records together show whether their timestamps are milliseconds."""
    gwa = [record for record in records if record.format is _GWA]
    steps = np.concatenate([np.diff(record.rows[:, 0]) for record in gwa] or [np.empty(0)])
    latest = max((record.rows[-1, 0] for record in gwa), default=0.0)
    milliseconds = _are_milliseconds(latest, steps)

    def convert(record: _Record) -> _Record:
        time, unit = 1e-3 if milliseconds and record.format is _GWA else 1.0, record.format.unit
        return replace(record, rows=record.rows * (time, unit, unit, unit))

    return [convert(record) for record in records]


def _usual_step(times: SecondsArray) -> float:
    """Compute the median time between samples, seconds."""
    return float(np.median(np.diff(times))) if len(times) > 1 else 1.0


def _trace(record: _Record, start: float, end: float) -> Trace:
    times = np.append(record.rows[:, 0] - start, end)
    demand = np.append(record.rows[:, 2], 0).astype(np.int64)
    disk_rate = float(record.rows[:, 3].mean()) if record.disk else None
    return step_trace(record.name, int(record.rows[:, 1].max()), times, demand, disk_rate)
