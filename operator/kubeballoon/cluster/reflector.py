"""This module keeps a collection of Kubernetes objects in memory: it lists the objects once and then watches them."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterable

from kubeballoon.cluster.client import ApiClient, ApiError, ExpiredError, Object
from kubeballoon.core.backoff import Backoff

_log = logging.getLogger(__name__)

_WATCH_SECONDS = 300.0  # seconds: a watch lasts that long before it is reopened; the shortest that client-go asks for
_RECONNECT_SECONDS = 1.0  # seconds before a watch that ended is reopened, and before the first retry after a failure
_LONGEST_PAUSE = 30.0  # seconds between attempts while the API server cannot be reached


class Reflector:
    """A Reflector knows the objects of one collection.

    While the API server cannot be reached, the objects stay as they last were.

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
        changed: Callable[[], None] = lambda: None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Reflect the collection at ``path``.

        Args:
            cluster: the API server.
            path: the collection's path.
            label_selector: restricts the objects; an empty one takes all.
            changed: called in the event loop after every change of the objects.
            sleep: passes the time between attempts.
        """
        self._cluster = cluster
        self._path = path
        self._query = {"labelSelector": label_selector} if label_selector else {}
        self._changed = changed
        self._sleep = sleep
        self._backoff = Backoff(_RECONNECT_SECONDS, _LONGEST_PAUSE)  # counts failures since the last answer
        self._objects: dict[str, Object] = {}  # by uid
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

    def objects(self) -> Iterable[Object]:
        """Return the objects as they last were."""
        return self._objects.values()

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
                pause = self._backoff.pause
            # Pauses after an orderly end too: a proxy that ends every watch at once must not keep the agent busy.
            await self._sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311 - spreads many agents' reconnects

    async def _list(self) -> None:
        answer = await self._cluster.get(self._path, **self._query)
        self._objects = {item["metadata"]["uid"]: _without_managed_fields(item) for item in answer["items"]}
        self._version = answer["metadata"]["resourceVersion"]
        self._backoff = self._backoff.succeeded()
        self.reachable = True
        self.synced.set()
        self._changed()

    async def _watch(self) -> None:
        query = {**self._query, "resourceVersion": self._version}
        async with self._cluster.watch(self._path, _WATCH_SECONDS, **query) as events:
            self.reachable = True
            async for event in events:
                self._apply(event["type"], event["object"])

    def _apply(self, event_type: str, item: Object) -> None:
        metadata = item["metadata"]
        self._version = metadata["resourceVersion"]
        self._backoff = self._backoff.succeeded()
        if event_type == "BOOKMARK":
            return
        if event_type == "DELETED":
            self._objects.pop(metadata["uid"], None)
        else:
            self._objects[metadata["uid"]] = _without_managed_fields(item)
        self._changed()


def _without_managed_fields(item: Object) -> Object:
    """Drop managedFields from an object: half of its size, and unused here."""
    item["metadata"].pop("managedFields", None)
    return item
