"""The events of a VM that `explain` shows, which the VM's tenant may write as well."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kubeballoon.cli.vm_events import read_events
from tests.support.cluster import Object

OURS = "kubeballoon.io/controller"


def event(second: int, controller: str = OURS, **fields: Any) -> Object:
    moment = f"2026-01-01T00:00:{second:02}.000000Z"
    return {"metadata": {"creationTimestamp": moment}, "eventTime": moment, "reportingController": controller, **fields}


class FakeReader:
    """An API server with these events."""

    def __init__(self, *events: Object) -> None:
        self.events = events

    def items(self, _: str, **__: str) -> Iterator[Object]:
        """Yield the events."""
        yield from self.events


def test_the_controller_s_latest_events_are_shown_in_their_order() -> None:
    events = [event(second, reason="Reclaimed", note=f"note {second}") for second in (7, 3, 5, 1, 9, 2)]
    reader: Any = FakeReader(*events, event(30, "kubelet", reason="Other", note="of somebody else"))
    assert [each.note for each in read_events(reader, "shop", "u")] == [f"note {n}" for n in (2, 3, 5, 7, 9)]


def test_an_event_that_lacks_what_the_controller_always_writes_is_shown_without_it() -> None:
    bare: Object = {"metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"}, "reportingController": OURS}
    reader: Any = FakeReader(bare, {**bare, "reason": None, "note": None, "series": None, "eventTime": None})
    assert [(each.reason, each.note) for each in read_events(reader, "shop", "u")] == [("-", "")] * 2
