"""The limits that the figures of the benchmarks must not exceed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Limit:
    """A Limit is the most that a figure may be: a number, or another figure of the same row."""

    figure: str
    most: float | str


LIMITS: Mapping[str, tuple[Limit, ...]] = {
    # The decision for one node.
    "allocation": (Limit("median_ms", "allowed_ms"),),
    # Eighty VMs for seven days, and the demand that stays unmet on nodes of 128 GiB.
    "replay": (Limit("wall_seconds", "allowed_seconds"), Limit("unmet_gib_hours", "allowed_gib_hours")),
    # Recorded traces, against the optimum and no balloon.
    "recorded": (Limit("unmet_gib_hours", "allowed_gib_hours"),),
    # The share of node-days within the limits: as it is told with 95 % confidence, and as it is with other VMs.
    "recommend": (Limit("promised_share", "rest_share"),),
    # How often one VM is migrated within a day.
    "migrations": (Limit("most_per_vm_and_day", 1),),
    # Nodes whose VMs demand half as much again as there is.
    "contention": (
        Limit("share_error_percent", 5.0),
        Limit("named_seconds", 30.0),
        Limit("short_seconds", 60.0),
        Limit("waiting", 0.0),
        Limit("vms_killed", 0.0),
        Limit("below_min_seconds", 0.0),
    ),
    # An agent with fifty VMs while nothing changes, and one with fewer VMs on real daemons. Writes are its heartbeats,
    # of which one or two fall into the half minute that is measured.
    "agent": (Limit("core_percent", 2.0), Limit("resident_mib", 100.0), Limit("writes_per_minute", 2.0)),
    # An agent with two hundred VMs, whose calls to libvirt share threads; four per cent is the goal on a machine that
    # does nothing else.
    "crowded": (Limit("core_percent", 6.0), Limit("resident_mib", 150.0), Limit("threads", 100)),
    # A call of kubectl-balloon for 1,200 VMs, to `kubectl get -o json` of the same objects; and for 10,000.
    "cli": (Limit("cpu_ratio", "allowed_ratio"), Limit("resident_mib", 100.0)),
    # From the time a node leaves Ample until it is Ample again: 1.5 times what libvirt alone takes, and a second.
    "reaction": (Limit("kubeballoon_seconds", "allowed_seconds"),),
    # What a report of 20 VMs costs the API server, in patches of a VMI.
    "fleet": (Limit("report_to_patch", "allowed_ratio"),),
    # A controller of 500 nodes with 20 VMs each, against an API server that costs nothing.
    "controller": (
        Limit("first_round_s", 5.0),
        Limit("every_round_s", 10.0),
        Limit("node_lists", 1),
        Limit("peak_mib", 150.0),
        Limit("need_p99_s", 2.0),
        Limit("status_s", 3.0),
        Limit("failover_s", 10.0),
        Limit("outage_s", 15.0),
        Limit("restarts", 0),
    ),
    # An agent whose launchers all lie: for how long its event loop was held at most, and the chart's limit of memory.
    "hostile": (Limit("held_seconds", 0.5), Limit("peak_mib", 512.0)),
}


def exceeded(name: str, rows: Rows) -> Iterator[str]:
    """Describe, in a line each, the limits that the rows of a benchmark exceed; a figure without a limit has none."""
    for row in rows:
        for limit in LIMITS.get(name, ()):
            most = row.get(limit.most) if isinstance(limit.most, str) else limit.most
            if most is not None and row.get(limit.figure, 0.0) > most:
                yield f"{name}: {limit.figure} is {row[limit.figure]:.4g}, and may be {most:.4g}"
