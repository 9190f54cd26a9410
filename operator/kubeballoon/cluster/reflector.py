"""This module follows a collection of Kubernetes objects: it lists the objects in pages, and then watches them."""

from __future__ import annotations

import asyncio
import logging
import random
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable

from kubeballoon.cluster.client import (
    JSON,
    OBJECT_METADATA_ONLY,
    ApiClient,
    ApiError,
    BusyError,
    ExpiredError,
    Object,
)
from kubeballoon.core.backoff import Backoff

_log = logging.getLogger(__name__)

_WATCH_SECONDS = 300.0  # seconds: a watch lasts that long before it is reopened; the shortest that client-go asks for
_RECONNECT_SECONDS = 1.0  # seconds before a watch that ended is reopened, and before the first retry after a failure
_LONGEST_PAUSE = 30.0  # seconds between attempts while the API server cannot be reached


class Follower(ABC):
    """A Follower learns of every change of one collection's objects; what it does with them, its subclass says.

    Attributes:
        synced: set once the objects have been listed.
        reachable: whether the last attempt to list or to watch the collection succeeded.
    """

    def __init__(
        self,
        cluster: ApiClient,
        path: str,
        *,
        label_selector: str = "",
        labels_only: bool = False,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        longest_pause: float = _LONGEST_PAUSE,
    ) -> None:
        """Follow the collection at ``path``.

        Args:
            cluster: the API server.
            path: the collection's path.
            label_selector: restricts the objects; an empty one takes all.
            labels_only: whether only names and labels are read and kept: there may be very many objects.
            sleep: passes the time between attempts.
            longest_pause: between attempts while the API server cannot be reached, seconds.
        """
        self._cluster = cluster
        self._path = path
        self._query = {"labelSelector": label_selector} if label_selector else {}
        self._labels_only = labels_only
        self._sleep = sleep
        self._backoff = Backoff(_RECONNECT_SECONDS, longest_pause)  # counts failures since the last answer
        self._version = ""  # the resourceVersion to watch from; empty where the objects have to be listed
        self.synced = asyncio.Event()
        self.reachable = False

    @property
    def tried(self) -> bool:
        """Whether the collection was listed, or the attempt to list it has failed."""
        return self.synced.is_set() or self._failing

    @property
    def _failing(self) -> bool:
        return self._backoff.pause > 0

    async def run(self) -> None:
        """Follow the collection until cancelled."""
        while True:
            pause = _RECONNECT_SECONDS
            try:
                if not self._version:
                    await self._list()
                await self._watch()
            except ExpiredError:
                self._version = ""
            except ApiError as error:
                if not self._failing:
                    _log.warning("%s", error)
                self.reachable = False
                self._backoff = self._backoff.failed(0.0)  # only the length of the pause is used: sleeping ends it
                asked = error.retry_after if isinstance(error, BusyError) else 0.0
                pause = max(self._backoff.pause, min(asked, _LONGEST_PAUSE))
            # Pauses after an orderly end too: a proxy that ends every watch at once must not keep the agent busy.
            await self._sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311 - spreads many agents' reconnects

    async def _list(self) -> None:
        uids = set()
        version = ""
        async for page in self._cluster.pages(self._path, self._query, metadata_only=self._labels_only):
            version = page["metadata"]["resourceVersion"]
            for item in page["items"]:
                uids.add(item["metadata"]["uid"])
                self._take(self._kept(item))
                await asyncio.sleep(0)  # many objects at once must not hold the event loop
        self._keep(uids)
        self._version = version
        self._backoff = self._backoff.succeeded()
        self.reachable = True
        self.synced.set()
        self._listed()

    async def _watch(self) -> None:
        query = {**self._query, "resourceVersion": self._version}
        accept = OBJECT_METADATA_ONLY if self._labels_only else JSON
        async with self._cluster.watch(self._path, _WATCH_SECONDS, accept=accept, **query) as events:
            self.reachable = True
            async for event in events:
                self._apply(event["type"], event["object"])
                await asyncio.sleep(0)  # events that have arrived already are read without waiting

    def _apply(self, event_type: str, item: Object) -> None:
        self._version = item["metadata"]["resourceVersion"]
        self._backoff = self._backoff.succeeded()
        if event_type == "DELETED":
            self._drop(item)
        elif event_type != "BOOKMARK":
            self._take(self._kept(item))

    def _kept(self, item: Object) -> Object:
        """Drop from an object what is not used here: managedFields are half of it."""
        metadata = item["metadata"]
        if self._labels_only:
            return {"metadata": {key: metadata[key] for key in ("name", "uid", "labels") if key in metadata}}
        metadata.pop("managedFields", None)
        return item

    @abstractmethod
    def _take(self, item: Object) -> None:
        """Take in an object that was listed, created or changed."""

    @abstractmethod
    def _drop(self, item: Object) -> None:
        """Forget an object that was deleted."""

    @abstractmethod
    def _keep(self, uids: set[str]) -> None:
        """Forget all objects but those with these uids: all that were listed."""

    @abstractmethod
    def _listed(self) -> None:
        """Go on from a complete list."""


class Reflector(Follower):
    """A Reflector knows the objects of one collection.

    While the API server cannot be reached, the objects stay as they last were.
    """

    def __init__(
        self,
        cluster: ApiClient,
        path: str,
        *,
        label_selector: str = "",
        labels_only: bool = False,
        changed: Callable[[], None] = lambda: None,
        essence: Callable[[Object], object] = lambda item: item,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Reflect the collection at ``path``.

        Args:
            cluster: the API server.
            path: the collection's path.
            label_selector: restricts the objects; an empty one takes all.
            labels_only: whether only names and labels are read and kept: there may be very many objects.
            changed: called in the event loop after every change of the objects' essence.
            essence: picks the part of an object whose change is of interest; by default all of it.
            sleep: passes the time between attempts.
        """
        super().__init__(cluster, path, label_selector=label_selector, labels_only=labels_only, sleep=sleep)
        self._changed = changed
        self._essence = essence
        self._objects: dict[str, Object] = {}  # by uid

    def objects(self) -> Iterable[Object]:
        """Return the objects as they last were."""
        return self._objects.values()

    def _take(self, item: Object) -> None:
        uid = item["metadata"]["uid"]
        before, self._objects[uid] = self._objects.get(uid), item
        if self.synced.is_set() and (before is None or self._essence(before) != self._essence(item)):
            self._changed()

    def _drop(self, item: Object) -> None:
        self._objects.pop(item["metadata"]["uid"], None)
        self._changed()

    def _keep(self, uids: set[str]) -> None:
        self._objects = {uid: item for uid, item in self._objects.items() if uid in uids}

    def _listed(self) -> None:
        self._changed()


def without_status(item: Object) -> object:
    """Pick what people write of an object: its spec, labels and annotations, and that it is being deleted."""
    metadata = item["metadata"]
    marks = (metadata.get(key) for key in ("labels", "annotations", "deletionTimestamp"))
    return item.get("spec"), *marks
