"""What kopf calls: each handler takes an object in and says who needs a round.

Event handlers only: the change-detecting ones would write annotations onto users' policies, and timers and daemons
would put finalizers onto nodes' and users' objects.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import kopf

from kubeballoon.api.names import GROUP, VERSION
from kubeballoon.controller.cluster_state import ClusterState
from kubeballoon.controller.policy_store import PolicyStore
from kubeballoon.controller.scheduler import Scheduler


class Handlers:
    """The handlers, bound to what they feed."""

    def __init__(self, state: ClusterState, scheduler: Scheduler) -> None:
        """Feed ``state``, and mark nodes with ``scheduler``."""
        self._state = state
        self._scheduler = scheduler

    def registry(self) -> kopf.OperatorRegistry:
        """What kopf is run with."""
        handlers = kopf.OperatorRegistry()
        kopf.on.startup(registry=handlers)(configure)
        kopf.on.login(registry=handlers)(login)
        for store in self._state.stores:
            kopf.on.event(GROUP, VERSION, store.policy_type.model.plural, registry=handlers)(
                partial(self.policy, store)
            )
        kopf.on.event(GROUP, VERSION, "nodepressures", registry=handlers)(self.node)
        kopf.on.event("", "v1", "namespaces", registry=handlers)(self.namespace)
        return handlers

    async def policy(self, store: PolicyStore[Any, Any], event: kopf.RawEvent, name: str, uid: str, **_: Any) -> None:
        """A policy of the book's kind came, changed or went."""
        if event["type"] == "DELETED":
            store.remove(name, uid)
            self._scheduler.mark_all()
        elif store.put(event["object"]):
            self._scheduler.mark_all()

    async def node(self, event: kopf.RawEvent, name: str, **_: Any) -> None:
        """An agent reported, or its node went."""
        if event["type"] == "DELETED":
            self._state.forget_node(name)
            self._scheduler.mark(name)
        elif self._state.put_node(event["object"], time.monotonic()):
            self._scheduler.mark(name)

    async def namespace(self, event: kopf.RawEvent, name: str, labels: kopf.Labels, **_: Any) -> None:
        """A namespace came, changed or went."""
        if event["type"] == "DELETED":
            self._state.namespaces.pop(name, None)
        elif self._state.put_namespace(name, labels):
            self._scheduler.mark_all()


class _Backoffs:
    """Seconds between attempts to reach the API server: without end, or kopf would end the process."""

    def __iter__(self) -> Iterator[float]:
        return itertools.chain((1, 2, 5, 10), itertools.repeat(15))


async def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
    """Deadlines, and no events of kopf's own: they are posted on purpose, on transitions."""
    settings.posting.enabled = False
    settings.networking.request_timeout = 10.0
    settings.networking.error_backoffs = _Backoffs()
    settings.watching.server_timeout = 300
    settings.watching.connect_timeout = 10.0


async def login(**kwargs: Any) -> kopf.ConnectionInfo | None:
    """The user's kubeconfig if there is one, else the pod's own account."""
    return kopf.login_with_kubeconfig(**kwargs) or kopf.login_with_service_account(**kwargs)
