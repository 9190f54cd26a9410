"""Events are queued, counted in series and written by a task of their own, whatever the API server does."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from hack.testbed.controlplane import ControlPlane
from kubeballoon.cluster.client import ApiClient, NotFoundError, UnreachableError
from kubeballoon.cluster.events import EventRecorder, EventResult, ObjectReference
from tests.support.cluster import Object, get
from tests.support.waiting import Clock, soon


class FakeEvents:
    """A FakeEvents is an API server that keeps Event objects, unless it hangs or refuses them."""

    def __init__(self) -> None:
        self.objects: dict[str, Object] = {}
        self.answers = asyncio.Event()  # while it is not set, requests hang
        self.answers.set()
        self.refuses = False

    async def create(self, path: str, body: Object) -> Object:
        """Keep an Event."""
        await self.answers.wait()
        if self.refuses:
            raise UnreachableError("no answer")
        self.objects[f"{path}/{body['metadata']['name']}"] = body
        return body

    async def merge(self, path: str, body: Object) -> Object:
        """Change an Event."""
        await self.answers.wait()
        if path not in self.objects:
            raise NotFoundError("expired")
        self.objects[path] |= body
        return self.objects[path]

    def counts(self) -> dict[str, int]:
        """Return the number of events that each Event object stands for, by the name of the VM."""
        return {
            event["regarding"]["name"]: event.get("series", {"count": 1})["count"] for event in self.objects.values()
        }


class Recorder:
    """A Recorder posts events to a FakeEvents, on a clock that the test sets."""

    def __init__(self) -> None:
        self.events, self.clock = FakeEvents(), Clock(0.0)
        cluster: Any = self.events
        self.recorder = EventRecorder(cluster, "test", self._utc_now)

    def _utc_now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.clock())

    async def post(self, name: str, reason: str = "MemoryReclaimed", note: str = "why") -> None:
        """Post an event about a VM."""
        about = ObjectReference("kubevirt.io/v1", "VirtualMachineInstance", name, f"uid-{name}", "shop")
        await self.recorder.post(about, reason, note, action="Allocate")

    async def counted(self, **results: int) -> None:
        """Wait until so many events have each result."""
        expected = {"written": 0, "failed": 0, "dropped": 0, **results}
        await soon(lambda: self.recorder.results == expected, 10)


async def test_an_event_that_comes_again_is_counted_in_the_same_object() -> None:
    recorder = Recorder()
    for written in range(1, 4):
        await recorder.post("a", note=f"note {written}")
        await recorder.counted(written=written)
    await recorder.post("a", reason="MemoryReturned")
    await recorder.counted(written=4)
    repeated, other = recorder.events.objects.values()
    assert (repeated["note"], repeated["series"]["count"]) == ("note 1", 3)
    assert (other["reason"], "series" in other) == ("MemoryReturned", False)


async def test_events_that_come_again_while_they_wait_are_written_once() -> None:
    recorder = Recorder()
    for _ in range(5):
        await recorder.post("a")
        await recorder.post("b")
    await recorder.counted(written=2)
    assert recorder.events.counts() == {"a": 5, "b": 5}


async def test_an_event_that_comes_after_a_long_time_begins_a_new_series() -> None:
    recorder = Recorder()
    await recorder.post("a")
    await recorder.counted(written=1)
    recorder.clock.now += 7 * 60
    await recorder.post("a")
    await recorder.counted(written=2)
    assert ["series" in event for event in recorder.events.objects.values()] == [False, False]


async def test_a_series_whose_object_has_expired_goes_on_in_a_new_one() -> None:
    recorder = Recorder()
    await recorder.post("a")
    await recorder.counted(written=1)
    recorder.events.objects.clear()
    await recorder.post("a")
    await recorder.counted(written=2)
    assert recorder.events.counts() == {"a": 2}


async def test_an_api_server_that_hangs_holds_up_nobody_who_posts_and_costs_only_events() -> None:
    recorder = Recorder()
    recorder.events.answers.clear()
    async with asyncio.timeout(60):
        for number in range(3000):
            await recorder.post(f"vm-{number}")
        await asyncio.sleep(0)
        for number in range(1000, 2000):
            await recorder.post(f"vm-{number}")
    assert recorder.recorder.results[EventResult.DROPPED] >= 2000
    recorder.events.answers.set()
    await soon(lambda: sum(recorder.recorder.results.values()) == 4000, 60)
    assert recorder.recorder.results[EventResult.WRITTEN] == len(recorder.events.objects) >= 1000
    await recorder.post("later")
    await soon(lambda: "later" in recorder.events.counts(), 10)


async def test_a_write_that_fails_is_counted_and_later_events_are_written() -> None:
    recorder = Recorder()
    recorder.events.refuses = True
    await recorder.post("a")
    await recorder.counted(failed=1)
    recorder.events.refuses = False
    await recorder.post("b")
    await recorder.counted(failed=1, written=1)
    assert recorder.events.counts() == {"b": 1}


def has_written(recorder: EventRecorder, count: int) -> bool:
    """Whether so many writes of Event objects have succeeded."""
    return recorder.results[EventResult.WRITTEN] == count


@pytest.mark.cluster
async def test_the_api_server_counts_an_event_that_the_controller_posts_again(
    installed: ControlPlane, namespace: str
) -> None:
    account = installed.service_account_kubeconfig("kubeballoon-system", "kubeballoon-controller")
    about = ObjectReference("kubevirt.io/v1", "VirtualMachineInstance", "vm", "some-uid", namespace)
    async with await ApiClient.connect("test", account) as cluster:
        recorder = EventRecorder(cluster, "test")
        for count in range(1, 4):
            await recorder.post(about, "MemoryReclaimed", "ü" * 2000, action="Allocate")
            await soon(partial(has_written, recorder, count), 20)
    (event,) = get(installed, "events.events.k8s.io", f"--namespace={namespace}")["items"]
    assert event["series"]["count"] == 3
    assert event["note"] == "ü" * 512
