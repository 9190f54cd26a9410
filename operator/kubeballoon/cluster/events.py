"""This module posts Kubernetes events, which ``kubectl describe`` shows."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import uuid4

from kubeballoon.cluster import paths
from kubeballoon.cluster.client import ApiClient, ApiError, Object

_log = logging.getLogger(__name__)

_MAX_NOTE_BYTES = 1024  # the API server refuses longer notes
_MAX_NAME_CHARACTERS = 200  # leaves room for the suffix: the API server takes names of 253
_MAX_INSTANCE_CHARACTERS = 128  # the API server refuses longer ones


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


class EventRecorder:
    """An EventRecorder posts events as one instance of the controller."""

    def __init__(self, cluster: ApiClient, instance: str) -> None:
        """Post through ``cluster``; ``instance`` is the name of this replica."""
        self._cluster = cluster
        self._instance = instance

    async def post(self, about: ObjectReference, reason: str, note: str, *, action: str, warning: bool = False) -> None:
        """Post one event; a failure is only logged, because no event is worth stopping for.

        Args:
            about: the object that the event is about.
            reason: why the event was posted, in one word.
            note: what happened, in a sentence; it is cut to what the API server takes.
            action: what the controller was doing, in one word.
            warning: whether the event is a warning.
        """
        namespace = about.namespace or "default"  # where Kubernetes keeps events about cluster-scoped objects
        body = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {
                "name": f"{about.name[:_MAX_NAME_CHARACTERS]}.{uuid4().hex[:16]}",
                "namespace": namespace,
            },
            "eventTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "reportingController": "kubeballoon.io/controller",
            "reportingInstance": self._instance[:_MAX_INSTANCE_CHARACTERS],
            "regarding": about.to_wire(),
            "type": "Warning" if warning else "Normal",
            "reason": reason,
            "action": action,
            "note": note.encode()[:_MAX_NOTE_BYTES].decode(errors="ignore"),
        }
        try:
            await self._cluster.create(paths.events(namespace), body)
        except ApiError as error:
            _log.warning("%s", error)
