"""A collection kept in memory: listed once, then watched; listed again when the watch cannot go on."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterable

from kubeballoon.cluster.client import ApiClient, ApiError, ExpiredError, Object

_log = logging.getLogger(__name__)

_WATCH = 300.0  # seconds a watch lasts before it is opened anew
_RETRY = (1.0, 2.0, 5.0, 10.0, 30.0)  # seconds between attempts, growing


class Reflector:
    """The objects of one collection by uid.

    While the API server is away the objects stay as they were last seen.
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
        """Reflect the collection at ``path``; ``changed`` is called, in the event loop, after every change."""
        self._cluster = cluster
        self._path = path
        self._query = {"labelSelector": label_selector} if label_selector else {}
        self._changed = changed
        self._sleep = sleep
        self._failures = 0  # since something was last heard
        self._objects: dict[str, Object] = {}
        self._version = ""
        self.synced = asyncio.Event()
        self.reachable = False

    @property
    def tried(self) -> bool:
        """Whether the objects are known, or the API server would not tell them."""
        return self.synced.is_set() or self._failures > 0

    def objects(self) -> Iterable[Object]:
        """The objects as last seen."""
        return self._objects.values()

    async def run(self) -> None:
        """Follow the collection until cancelled."""
        while True:
            delay = _RETRY[0]
            try:
                if not self._version:
                    await self._list()
                await self._follow()
            except ExpiredError:
                self._version = ""
            except ApiError as error:
                if self._failures == 0:
                    _log.warning("%s", error)
                self.reachable = False
                delay = _RETRY[min(self._failures, len(_RETRY) - 1)]
                self._failures += 1
            # After an orderly end too: a proxy that ends every watch at once must not keep us busy.
            await self._sleep(delay * random.uniform(0.8, 1.2))  # noqa: S311 - spreads reconnects

    async def _list(self) -> None:
        answer = await self._cluster.get(self._path, **self._query)
        self._objects = {item["metadata"]["uid"]: _bare(item) for item in answer["items"]}
        self._version = answer["metadata"]["resourceVersion"]
        self._failures = 0
        self.reachable = True
        self.synced.set()
        self._changed()

    async def _follow(self) -> None:
        query = {**self._query, "resourceVersion": self._version}
        async with self._cluster.watch(self._path, _WATCH, **query) as events:
            self.reachable = True
            async for event in events:
                self._take(event["type"], event["object"])

    def _take(self, kind: str, item: Object) -> None:
        metadata = item["metadata"]
        self._version = metadata["resourceVersion"]
        self._failures = 0
        if kind == "BOOKMARK":
            return
        if kind == "DELETED":
            self._objects.pop(metadata["uid"], None)
        else:
            self._objects[metadata["uid"]] = _bare(item)
        self._changed()


def _bare(item: Object) -> Object:
    """The object without the account of who wrote which field: half of it, and read by nobody here."""
    item["metadata"].pop("managedFields", None)
    return item
