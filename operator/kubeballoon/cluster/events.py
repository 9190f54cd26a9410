"""This module posts Kubernetes events, which ``kubectl describe`` shows, and never holds up whoever posts them."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from kubeballoon.cluster import paths
from kubeballoon.cluster.client import ApiClient, ApiError, NotFoundError, Object
from kubeballoon.metrics import Result

_log = logging.getLogger(__name__)

_MAX_NOTE_BYTES = 1024  # the API server refuses longer notes
_MAX_NAME_CHARACTERS = 200  # leaves room for the suffix: the API server takes names of 253
_MAX_INSTANCE_CHARACTERS = 128  # the API server refuses longer ones
_MAX_QUEUED = 1000  # events; so many wait only while the API server is slow, and nobody reads thousands
_MAX_SERIES = 4096  # as many as client-go's recorder remembers
_SERIES_ENDS_AFTER = timedelta(minutes=6)  # as in client-go's recorder


class EventResult(Result):
    """An EventResult is what became of an event."""

    WRITTEN = "written"
    FAILED = "failed"
    DROPPED = "dropped", "too many waited for the API server"


@dataclass(frozen=True, slots=True)
class ObjectReference:
    """An ObjectReference names the object that an event is about; one without a namespace is cluster-scoped."""

    api_version: str
    kind: str
    name: str
    uid: str
    namespace: str = ""

    def to_wire(self) -> Object:
        """Write the reference as the API's ObjectReference."""
        wire = {"apiVersion": self.api_version, "kind": self.kind, "name": self.name, "uid": self.uid}
        return {**wire, "namespace": self.namespace} if self.namespace else wire


@dataclass(frozen=True, slots=True)
class _SeriesKey:
    """A _SeriesKey is what events must have in common to be counted in one Event object."""

    about: ObjectReference
    reason: str
    action: str
    warning: bool

    @property
    def namespace(self) -> str:
        """The namespace of the Event object: Kubernetes keeps events about cluster-scoped objects in "default"."""
        return self.about.namespace or "default"


@dataclass(slots=True)
class _Series:
    """A _Series is an event and its repetitions.

    Attributes:
        note: the first event's note; the API server lets no later event change it.
        first_at: when the first event happened.
        last_at: when the last event happened.
        count: how many events there were.
        name: the name of the Event object; None until the object exists.
    """

    note: str
    first_at: datetime
    last_at: datetime
    count: int = 1
    name: str | None = None

    def repeat(self, now: datetime) -> None:
        """Count one more event of the same reason about the same object, at ``now``."""
        self.count += 1
        self.last_at = now

    def to_wire(self) -> Object:
        """Write the repetitions as the API's EventSeries, within the Event; empty for a single event."""
        return (
            {"series": {"count": self.count, "lastObservedTime": _micro_time(self.last_at)}} if self.count > 1 else {}
        )


class EventRecorder:
    """An EventRecorder queues events and writes them to the API server, one after the other, by a task of its own.

    The task begins with the first event, and ends when no event waits. Equal events that follow each other within six
    minutes share one Event object, which counts them. An event that does not find room in the queue is dropped.

    Attributes:
        results: how many writes succeeded or failed, and how many events were dropped.
    """

    def __init__(
        self, cluster: ApiClient, instance: str, utc_now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        """Post through ``cluster``; ``instance`` is the name of this replica, ``utc_now`` gives the time of day."""
        self._cluster = cluster
        self._instance = instance
        self._utc_now = utc_now
        self._queue: dict[_SeriesKey, _Series] = {}  # what is to be written, the oldest first
        self._known: OrderedDict[_SeriesKey, _Series] = OrderedDict()  # the last series, the latest used last
        self._writer: asyncio.Task[None] | None = None
        self._dropping = False  # whether a dropped event was logged since the queue was last empty
        self.results = dict.fromkeys(EventResult, 0)

    async def post(self, about: ObjectReference, reason: str, note: str, *, action: str, warning: bool = False) -> None:
        """Queue one event; this waits for nothing, and is a coroutine because it needs the running event loop.

        Args:
            about: the object that the event is about.
            reason: why the event was posted, in one word.
            note: what happened, in a sentence; it is cut to what the API server takes.
            action: what the controller was doing, in one word.
            warning: whether the event is a warning.
        """
        key, now = _SeriesKey(about, reason, action, warning), self._utc_now()
        queued = self._queue.get(key)
        if queued is not None:
            queued.repeat(now)
            return
        if len(self._queue) >= _MAX_QUEUED:
            self._drop()
            return
        self._queue[key] = self._series(key, note, now)
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write_all(), name="events")

    def _series(self, key: _SeriesKey, note: str, now: datetime) -> _Series:
        """Count an event in the series that it belongs to, which is a new one if the last has ended."""
        series = self._known.get(key)
        if series is None or now - series.last_at > _SERIES_ENDS_AFTER:
            series = self._known[key] = _Series(note.encode()[:_MAX_NOTE_BYTES].decode(errors="ignore"), now, now)
        else:
            series.repeat(now)
        self._known.move_to_end(key)
        if len(self._known) > _MAX_SERIES:
            self._known.popitem(last=False)
        return series

    def _drop(self) -> None:
        """Count an event for which there is no room; the log has one line until the queue is empty again."""
        self.results[EventResult.DROPPED] += 1
        if not self._dropping:
            _log.warning("events are dropped: %d wait for the API server already", _MAX_QUEUED)
        self._dropping = True

    async def _write_all(self) -> None:
        """Write what is queued; a failure is only logged, because no event is worth stopping for."""
        while self._queue:
            key = next(iter(self._queue))
            series = self._queue.pop(key)
            try:
                await self._write(key, series)
            except ApiError as error:
                self.results[EventResult.FAILED] += 1
                _log.warning("%s", error)
            else:
                self.results[EventResult.WRITTEN] += 1
        self._dropping = False

    async def _write(self, key: _SeriesKey, series: _Series) -> None:
        """Write a series' Event object: create it, or bring its count up to date.

        Raises:
            ApiError: the API server refuses the event, or does not answer within the client's deadline.
        """
        collection = paths.events(key.namespace)
        if series.name is not None:
            try:
                await self._cluster.merge(f"{collection}/{series.name}", series.to_wire())
            except NotFoundError:
                series.name = None  # the API server keeps events for an hour only
            else:
                return
        name = f"{key.about.name[:_MAX_NAME_CHARACTERS]}.{uuid4().hex[:16]}"
        await self._cluster.create(collection, self._event(key, series, name))
        series.name = name

    def _event(self, key: _SeriesKey, series: _Series, name: str) -> Object:
        return {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": key.namespace},
            "eventTime": _micro_time(series.first_at),
            "reportingController": "kubeballoon.io/controller",
            "reportingInstance": self._instance[:_MAX_INSTANCE_CHARACTERS],
            "regarding": key.about.to_wire(),
            "type": "Warning" if key.warning else "Normal",
            "reason": key.reason,
            "action": key.action,
            "note": series.note,
            **series.to_wire(),
        }


def _micro_time(moment: datetime) -> str:
    """Write a moment as the API's MicroTime."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
