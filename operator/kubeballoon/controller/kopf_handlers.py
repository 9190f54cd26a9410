"""This module holds kopf's handlers: each takes in an object that changed, and enqueues the nodes that it concerns.

They are all event handlers. kopf's change-detecting handlers would write annotations onto users' policies; its timers
and daemons would put finalizers onto nodes' and users' objects.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any, cast

import kopf

from kubeballoon.api.names import GROUP, VERSION
from kubeballoon.cluster import paths
from kubeballoon.controller.cluster_state import ClusterState
from kubeballoon.controller.policy_store import PolicyCollection
from kubeballoon.controller.scheduler import Scheduler
from kubeballoon.core.backoff import Backoff


class Handlers:
    """Handlers bring the cluster state up to date, and enqueue nodes with the scheduler."""

    def __init__(self, state: ClusterState, scheduler: Scheduler) -> None:
        """Update ``state``, and enqueue nodes with ``scheduler``."""
        self._state = state
        self._scheduler = scheduler

    def registry(self) -> kopf.OperatorRegistry:
        """Register all handlers with kopf."""
        handlers = kopf.OperatorRegistry()
        kopf.on.startup(registry=handlers)(configure)
        kopf.on.login(registry=handlers)(login)
        for policies in self._state.collections:
            kopf.on.event(GROUP, VERSION, policies.model.plural, registry=handlers)(partial(self.policy, policies))
        kopf.on.event("", "v1", "namespaces", registry=handlers)(self.namespace)
        return handlers

    async def policy(
        self, policies: PolicyCollection[Any], event: kopf.RawEvent, name: str, uid: str, **_: Any
    ) -> None:
        """Take in a policy that was created, changed or deleted."""
        self._record(policies.path, event)
        if event["type"] == "DELETED":
            policies.remove(name, uid)
            changed = True
        else:
            changed = policies.put(event["object"])
        if changed and policies is not self._state.node_policies:  # what those decide comes in agents' reports
            self._scheduler.enqueue_all()

    async def namespace(self, event: kopf.RawEvent, name: str, labels: kopf.Labels, **_: Any) -> None:
        """Take in a namespace that was created, changed or deleted."""
        self._record(paths.NAMESPACES, event)
        if event["type"] == "DELETED":
            self._state.forget_namespace(name)
        elif self._state.put_namespace(name, labels):
            self._scheduler.enqueue_all()

    def _record(self, path: str, event: kopf.RawEvent) -> None:
        self._scheduler.watches.record(path, event["type"], event["object"]["metadata"])


class _EndlessPauses:
    """_EndlessPauses are kopf's pauses between attempts to reach the API server, seconds.

    They never end: after the last one kopf would end the process.
    """

    def __iter__(self) -> Iterator[float]:
        backoff = Backoff(shortest=1.0, longest=5.0)
        while True:
            backoff = backoff.failed(0.0)  # only the length of the pause is used: kopf sleeps
            yield backoff.pause


class _NoDiffBase(kopf.DiffBaseStorage):
    """A _NoDiffBase keeps nothing of objects.

    kopf would copy each object at each event, to find out what has changed; no handler here asks for that.
    """

    def build(self, **_: Any) -> kopf.BodyEssence:
        """Build what is compared: nothing."""
        return cast("kopf.BodyEssence", {})

    def fetch(self, **_: Any) -> kopf.BodyEssence | None:
        """Find what was stored: nothing."""
        return None

    def store(self, **_: Any) -> None:
        """Store nothing."""


async def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
    """Set kopf's deadlines, and keep kopf from posting events: the controller posts its own."""
    settings.posting.enabled = False
    settings.persistence.diffbase_storage = _NoDiffBase()
    settings.networking.request_timeout = 10.0  # seconds; other requests than watches take well under one
    settings.networking.error_backoffs = _EndlessPauses()
    # Seconds until the API server ends a watch and kopf begins another. client-go asks for 300 to 600, so that no watch
    # hangs for good; a server that is not asked may let one last an hour.
    settings.watching.server_timeout = 300
    settings.watching.connect_timeout = 10.0  # an address that drops packets would hold kopf up for minutes


async def login(**kwargs: Any) -> kopf.ConnectionInfo | None:
    """Connect with the user's kubeconfig if there is one, else as the pod's own account."""
    return kopf.login_with_kubeconfig(**kwargs) or _login_as_pod(**kwargs)


def _login_as_pod(**kwargs: Any) -> kopf.ConnectionInfo | None:
    """Connect as the pod's own account to the API server's address, which the kubelet gives to every pod.

    kopf alone would connect to the name kubernetes.default.svc, and watch nothing while the cluster's DNS is away.
    """
    connection = kopf.login_with_service_account(**kwargs)
    host, port = (os.environ.get(f"KUBERNETES_SERVICE_{part}") for part in ("HOST", "PORT"))
    if connection is None or not host or not port:
        return connection
    return replace(connection, server=f"https://{f'[{host}]' if ':' in host else host}:{port}")
