"""This module makes a workload of what a Prometheus recorded of VMs.

A VM is what has one namespace and name: on which node it ran does not matter, so a migration is seen as one VM.

- Where at some instant nothing is recorded of any VM, Prometheus was down: the values before hold.
- Where nothing is recorded of one VM, it was off. For up to fifteen minutes it stays on its node and demands nothing.
  After longer it has left, and with its return another trace begins, which is placed anew.
- Where a VM has a size, but no need, its guest did not report. For up to fifteen minutes the need before holds, or else
  the next. After longer the VM counts with its whole size, as it does for kubeballoon.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from kubeballoon.api.duration import format_duration
from kubeballoon.core.formatting import human, listed, printable
from kubeballoon.replay.prometheus import Labels, PrometheusError, Series, TimeRange, Values
from kubeballoon.replay.traces import Trace, Workload, natural_order, step_trace
from kubeballoon.replay.vm_queries import SIZE

Flags = npt.NDArray[np.bool_]

SHORT_GAP_SECONDS = 900.0
"""Seconds for which a VM may be off, or silent, without more than that being concluded from it."""

_MIN_INSTANTS = 2
_MIN_SIZE, _MAX_SIZE = 1 << 20, 1 << 50  # bytes: no VM has less, or more
_MAX_EXCESS = 1.5  # how many times its size a VM's need may be: QEMU's own figures differ by less


@dataclass(frozen=True, slots=True)
class VMHistory:
    """A VMHistory is what was recorded of VMs.

    Attributes:
        workload: the VMs' sizes and needs.
        owners: the VMs by the names of the workload's traces: a VM that was off for long has several.
        policies: the policy that governed each VM last, by VM; empty without kubeballoon's metrics.
        swapping: the share of the time in which each VM's guest read from swap, 0 to 1, by VM, where it is known.
        node_memory: what each node has for VMs, bytes; empty where no metric says so.
        silent: the VMs whose guests never reported what they use.
        notes: what the user should know, a line each.
    """

    workload: Workload
    owners: Mapping[str, str] = field(default_factory=dict)
    policies: Mapping[str, str] = field(default_factory=dict)
    swapping: Mapping[str, float] = field(default_factory=dict)
    node_memory: Sequence[int] = ()
    silent: Collection[str] = ()
    notes: Sequence[str] = ()


def read_history(answers: Mapping[str, Series], times: TimeRange) -> VMHistory:
    """Make a workload of what Prometheus answered to the queries of ``VMQueries``.

    Raises:
        PrometheusError: the metrics are not there, cover too little time, or cannot be in bytes.
    """
    sizes, needs = _by_vm(answers["size"]), _by_vm(answers["need"])
    if not sizes:
        raise PrometheusError(
            f"Prometheus has neither kubeballoon_vm_memory_bytes nor {SIZE} in this time: does it scrape kubeballoon "
            "or KubeVirt, and did VMs run?"
        )
    if not needs:
        raise PrometheusError(
            "no VM reports what its guest could spare (kubevirt_vmi_memory_usable_bytes): is memBalloonStatsPeriod 0 "
            "in KubeVirt's configuration?"
        )
    names = sorted(sizes, key=natural_order)
    nothing = np.full(times.instants, np.nan)
    size = np.array([sizes[name] for name in names])
    need = np.array([needs.get(name, nothing) for name in names])
    size, need, notes = _bridge_outages(size, need, times.step)
    _check_units(names, size, need)
    disk = {name: float(np.nanmean(rate)) for name, rate in _by_vm(answers["disk"]).items()}
    vms = [
        _RecordedVM(name, of_size, of_need, times.step, disk.get(name))
        for name, of_size, of_need in zip(names, size, need, strict=True)
    ]
    parts = [(vm.name, trace) for vm in vms for trace in vm.traces()]
    return VMHistory(
        Workload(tuple(trace for _, trace in parts), size.shape[1] * times.step),
        owners={trace.name: name for name, trace in parts},
        policies=_last_policies(answers["policy"]),
        swapping={name: float((rate[~np.isnan(rate)] > 0).mean()) for name, rate in _by_vm(answers["swap_in"]).items()},
        node_memory=_node_memory(answers),
        silent=[vm.name for vm in vms if vm.silent],
        notes=[*notes, *_notes(vms)],
    )


def _by_vm(series: Series) -> dict[str, Values]:
    """Return series by their VMs, as NAMESPACE/NAME.

    Raises:
        PrometheusError: none of them says of which VM it is.
    """
    named = {_vm_name(labels): values for labels, values in series.items()}
    if series and set(named) == {None}:
        raise PrometheusError(
            "the metrics of VMs have no labels namespace and name: are they scraped with honorLabels: true?"
        )
    return {name: values for name, values in named.items() if name is not None}


def _vm_name(labels: Labels) -> str | None:
    found = dict(labels)
    if not found.get("namespace") or not found.get("name"):
        return None
    return printable(f"{found['namespace']}/{found['name']}")


def _bridge_outages(size: Values, need: Values, step: float) -> tuple[Values, Values, list[str]]:
    """Cut off what comes before the first record and after the last, and let values hold while Prometheus was down.

    Args:
        size: bytes, shape (VMs, instants), NaN where nothing is recorded.
        need: the same of the needs.
        step: seconds between two instants.

    Returns:
        Size and need in between, and what the user should know of the outages.

    Raises:
        PrometheusError: there is hardly any record.
    """
    recorded: Flags = np.any(~np.isnan(size), axis=0)
    instants = np.flatnonzero(recorded)
    if len(instants) < _MIN_INSTANTS:
        raise PrometheusError("Prometheus has only one instant with metrics of VMs in this time: too little to replay")
    first, last = instants[0], instants[-1] + 1
    recorded = recorded[first:last]
    missing = int((~recorded).sum())
    latest = np.maximum.accumulate(np.where(recorded, np.arange(len(recorded)), 0))
    notes = []
    if missing:
        outages = int((np.diff(recorded.astype(np.int8)) < 0).sum())
        times = "once" if outages == 1 else f"{outages} times"
        duration = format_duration(missing * step)
        notes = [f"nothing was recorded of any VM {times}, for {duration} together: the values before hold"]
    return size[:, first:last][:, latest], need[:, first:last][:, latest], notes


def _check_units(names: Sequence[str], size: Values, need: Values) -> None:
    """Refuse figures that cannot be bytes, or not of one VM.

    Raises:
        PrometheusError: a size is out of bounds, or a VM usually needs more than it has.
    """
    for name, sizes, needs in zip(names, size, need, strict=True):
        largest = float(np.nanmax(sizes))
        if not _MIN_SIZE <= largest <= _MAX_SIZE:
            raise PrometheusError(f"the VM {name} has a size of {largest:.15g}: is its metric not in bytes?")
        reported = needs[~np.isnan(needs)]
        if len(reported) and float(np.median(reported)) > _MAX_EXCESS * largest:
            raise PrometheusError(
                f"the VM {name} needs {human(float(np.median(reported)))} of its {human(largest)}: are its metrics in "
                "different units?"
            )


@dataclass(frozen=True, slots=True)
class _RecordedVM:
    """A _RecordedVM is one VM as it was recorded; arrays are of shape (instants,), in bytes, NaN for what is missing.

    Attributes:
        step: seconds between two instants.
        disk_rate: what it reads from disks and writes to them, bytes a second; None if that is not known.
    """

    name: str
    size: Values
    need: Values
    step: float
    disk_rate: float | None

    @property
    def present(self) -> Flags:
        """Whether the VM ran, at each instant."""
        return ~np.isnan(self.size)

    @property
    def demand(self) -> Values:
        """What the VM works with, as far as that can be known: 0 where it was off."""
        longest = int(SHORT_GAP_SECONDS / self.step)
        need = np.where(self.present, self.need, 0.0)
        for first, last in _runs(np.isnan(need)):
            before = need[first - 1] if first and self.present[first - 1] else np.nan
            after = self.need[last] if last < len(need) else np.nan
            known = before if not np.isnan(before) else after
            short = last - first <= longest and not np.isnan(known)
            need[first:last] = known if short else self.size[first:last]
        return need

    @property
    def silent(self) -> bool:
        """Whether its guest never reported."""
        return bool(np.isnan(self.need).all())

    @property
    def excesses(self) -> int:
        """At how many instants the VM needs more than it has."""
        return int((self.need > np.nanmax(self.size)).sum())

    def traces(self) -> Iterator[Trace]:
        """Make a trace for each time between two long absences."""
        present, demand = self.present.copy(), self.demand
        longest = int(SHORT_GAP_SECONDS / self.step)
        for first, last in _runs(~present):
            if first and last < len(present) and last - first <= longest:
                present[first:last] = True
        for number, (first, last) in enumerate(_runs(present), start=1):
            name = self.name if number == 1 else f"{self.name} #{number}"
            ends = last < len(present)
            times = np.arange(first, last + ends) * self.step
            used = np.append(demand[first:last], [0.0] * ends)
            size = int(np.nanmax(self.size[first:last]))
            trace = step_trace(name, size, times, used.astype(np.int64), self.disk_rate)
            yield (
                replace(trace, start=first * self.step, end=last * self.step)
                if ends
                else replace(trace, start=first * self.step)
            )


def _runs(flags: Flags) -> list[tuple[int, int]]:
    """List where flags are set: the first index of each run, and the one after its last."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return [(int(first), int(last)) for first, last in edges.reshape(-1, 2)]


def _last_policies(series: Series) -> dict[str, str]:
    """Find which policy governed each VM last."""
    last: dict[str, tuple[int, str]] = {}
    for labels, values in series.items():
        name, policy = _vm_name(labels), printable(dict(labels).get("policy", ""))
        if name is not None and policy:
            seen = int(np.flatnonzero(~np.isnan(values))[-1])
            last[name] = max(last.get(name, (-1, "")), (seen, policy))
    return {name: policy for name, (_, policy) in last.items()}


def _node_memory(answers: Mapping[str, Series]) -> list[int]:
    """Find what each node that runs VMs has for them, bytes: what it has for 95 % of the time."""
    running = {dict(labels).get("node") for labels in answers["vm_nodes"]}
    memory = [values for labels, values in answers["node_memory"].items() if dict(labels).get("node") in running]
    known = memory or list(answers["host_memory"].values())
    return sorted(int(np.nanpercentile(values, 5)) for values in known)


def _notes(vms: Sequence[_RecordedVM]) -> Iterator[str]:
    """Say what of the record is doubtful."""
    if silent := [vm.name for vm in vms if vm.silent]:
        yield f"VMs that never reported what they use count with their whole size: {listed(silent)}"
    if excess := sum(vm.excesses for vm in vms):
        yield f"needs that exceed the VM's size count as all of it: {excess} samples"
