"""Events: posted on transitions, for whoever runs ``kubectl describe``."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import uuid4

from kubeballoon.cluster import paths
from kubeballoon.cluster.client import ApiClient, ApiError, Object

_log = logging.getLogger(__name__)

LONGEST_NOTE = 1024  # bytes the API server takes


@dataclass(frozen=True, slots=True)
class ObjectReference:
    """The object an event is about. A cluster-scoped one has no namespace; its events are in ``default``."""

    api_version: str
    kind: str
    name: str
    uid: str
    namespace: str = ""

    def to_wire(self) -> Object:
        """An ObjectReference."""
        wire = {"apiVersion": self.api_version, "kind": self.kind, "name": self.name, "uid": self.uid}
        return {**wire, "namespace": self.namespace} if self.namespace else wire


class EventRecorder:
    """Posts events; one that cannot be posted is logged, and stops nothing."""

    def __init__(self, cluster: ApiClient, instance: str) -> None:
        """Post as ``instance`` of kubeballoon.io/controller."""
        self._cluster = cluster
        self._instance = instance

    async def post(self, about: ObjectReference, reason: str, note: str, *, action: str, warning: bool = False) -> None:
        """Post one event: why (one word), what in a sentence, and what was being done (one word)."""
        namespace = about.namespace or "default"
        body = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": f"{about.name[:200]}.{uuid4().hex[:16]}", "namespace": namespace},
            "eventTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "reportingController": "kubeballoon.io/controller",
            "reportingInstance": self._instance[:128],
            "regarding": about.to_wire(),
            "type": "Warning" if warning else "Normal",
            "reason": reason,
            "action": action,
            "note": note.encode()[:LONGEST_NOTE].decode(errors="ignore"),
        }
        try:
            await self._cluster.create(paths.events(namespace), body)
        except ApiError as error:
            _log.warning("%s", error)
