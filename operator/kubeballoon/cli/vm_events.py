"""This module reads and prints the events that the controller recorded about a VM."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Any

from kubeballoon.api.meta import ApiModel
from kubeballoon.cli.output import Output
from kubeballoon.cli.table import Cell, Style
from kubeballoon.cluster import paths
from kubeballoon.cluster.reader import ApiReader

_LATEST = 5  # events shown


class VMEvent(ApiModel):
    """A VMEvent is an event that the controller recorded about a VM."""

    at: str
    reason: str
    note: str


def read_events(reader: ApiReader, namespace: str, uid: str) -> list[VMEvent]:
    """Read the controller's latest events about a VM, the latest last.

    Raises:
        ApiError: events cannot be read.
    """
    events = reader.items(paths.events(namespace), fieldSelector=f"regarding.uid={uid}")
    ours = (each for each in events if each.get("reportingController") == "kubeballoon.io/controller")
    # Whoever may write events in the namespace can write as many, and leave out what the controller never does.
    latest = heapq.nlargest(_LATEST, ours, key=_event_time)
    return [
        VMEvent(at=_event_time(each), reason=each.get("reason") or "-", note=each.get("note") or "")
        for each in reversed(latest)
    ]


def _event_time(event: dict[str, Any]) -> str:
    """Return when an event, or the last of a series, was recorded, RFC 3339; such times sort as text."""
    series = event.get("series") or {}
    return str(series.get("lastObservedTime") or event.get("eventTime") or event["metadata"]["creationTimestamp"])


def print_events(events: Sequence[VMEvent], output: Output) -> None:
    """Print events below a title; nothing if there are none."""
    if events:
        output.print_line()
        output.print_line(Cell("Last changes", Style.STRONG))
        for event in events:
            output.print_line(f"{event.at.partition('.')[0].removesuffix('Z')}  {event.reason}")
            output.print_line(f"  {event.note}")
