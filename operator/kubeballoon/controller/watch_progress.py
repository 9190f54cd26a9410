"""This module finds out whether kopf's watches deliver what the API server has.

kopf does not say whether its watches are in step. So what it delivers is compared with what the controller itself lists
now and then: that holds whatever has gone wrong with a watch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Metadata = Mapping[str, Any]


@dataclass(slots=True)
class _Collection:
    """A _Collection is one of the watched collections.

    Attributes:
        delivered: the version of each object that kopf delivered last, and the number of that delivery, by uid.
        missing: since when the API server has had versions that kopf has not delivered, seconds, by uid.
    """

    delivered: dict[str, tuple[str, int]] = field(default_factory=dict)
    missing: dict[str, float] = field(default_factory=dict)


class WatchProgress:
    """WatchProgress says whether kopf has delivered the objects that the controller has listed."""

    def __init__(self, patience: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin without any object; kopf may take ``patience`` seconds to deliver a change."""
        self._patience = patience
        self._clock = clock
        self._deliveries = 0
        self._collections: dict[str, _Collection] = {}  # by path

    @property
    def deliveries(self) -> int:
        """How many changes kopf has delivered so far."""
        return self._deliveries

    def record(self, path: str, event_type: str | None, metadata: Metadata) -> None:
        """Record that kopf has delivered a change of an object in the collection at ``path``."""
        collection, uid = self._collection(path), metadata["uid"]
        self._deliveries += 1
        collection.missing.pop(uid, None)
        if event_type == "DELETED":
            collection.delivered.pop(uid, None)
        else:
            collection.delivered[uid] = metadata["resourceVersion"], self._deliveries

    def compare(self, path: str, listed: Iterable[Metadata], deliveries: int, *, first: bool = False) -> None:
        """Compare a collection's objects, as the API server has listed them, with what kopf has delivered.

        Args:
            path: the collection's path.
            listed: the metadata of all its objects.
            deliveries: how many changes kopf had delivered when the list was requested. An object that was delivered
                later counts as up to date, for it may be newer than the list.
            first: whether kopf has yet to deliver everything. Then nothing is in step until it has.
        """
        collection = self._collection(path)
        since = -math.inf if first else self._clock()
        versions = {each["uid"]: each["resourceVersion"] for each in listed}
        # Those that are gone are forgotten: when kopf lists anew, it does not tell what was deleted meanwhile.
        collection.delivered = {
            uid: (version, number)
            for uid, (version, number) in collection.delivered.items()
            if uid in versions or number > deliveries
        }
        up_to_date = (uid for uid, (version, _) in collection.delivered.items() if version == versions.get(uid))
        newer = (uid for uid, (_, number) in collection.delivered.items() if number > deliveries)
        behind = versions.keys() - {*up_to_date, *newer}
        collection.missing = {uid: collection.missing.get(uid, since) for uid in behind}

    def fault(self) -> str | None:
        """Say in one line which watches are not in step; None if all are."""
        late = self._clock() - self._patience
        counts = {
            path.rpartition("/")[2]: sum(since <= late for since in collection.missing.values())
            for path, collection in self._collections.items()
        }
        behind = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
        return f"watches are not in step: {behind} have not been delivered yet" if behind else None

    def _collection(self, path: str) -> _Collection:
        return self._collections.setdefault(path, _Collection())
