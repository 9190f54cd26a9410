"""Thieves have a stolen token of kubeballoon's, and send requests of their own making."""

from __future__ import annotations

import base64
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from hack.testbed.chart import NAMESPACE, RELEASE
from hack.testbed.controlplane import ControlPlane, ControlPlaneError
from tests.support.cluster import Object

THEFTS: dict[str, Object] = {
    "owner references": {
        "metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "gone", "uid": "gone"}]}
    },
    "finalizers": {"metadata": {"finalizers": ["example.com/never"]}},
    "labels": {"metadata": {"labels": {"tier": "gold"}}},
    "a label's removal": {"metadata": {"labels": None}},
    "the spec": {"spec": {"terminationGracePeriodSeconds": 0}},
    "the status": {"status": {"nodeName": "another"}},
    "other annotations": {"metadata": {"annotations": {"kubevirt.io/note": "1"}}},
    "the owner's annotation": {"metadata": {"annotations": {"kubeballoon.io/exclude": "true"}}},
    "all annotations": {"metadata": {"annotations": None}},
}
"""Merge patches by which a thief would use the controller's right to patch VMIs."""


@dataclass(frozen=True)
class Thief:
    """A Thief holds a stolen token, and sends requests of his own making: kubectl would first read what it patches."""

    access: Object

    @classmethod
    def of(cls, plane: ControlPlane, part: str) -> Thief:
        """Steal the token of a part of kubeballoon."""
        account = plane.service_account_kubeconfig(NAMESPACE, f"{RELEASE}-{part}")
        return cls(json.loads(account.read_text()))

    def patch(self, path: str, body: Object, query: str = "") -> Object:
        """Send a merge patch as `send` does."""
        return self.send("PATCH", path, body, query)

    def send(self, method: str, path: str, body: Object | None = None, query: str = "") -> Object:
        """Send a request, and return the answer; what is sent with a PATCH is a merge patch.

        Raises:
            ControlPlaneError: the API server refuses it; the message is the API server's.
        """
        cluster, user = self.access["clusters"][0]["cluster"], self.access["users"][0]["user"]
        authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        headers = {"Authorization": f"Bearer {user['token']}", "Content-Type": "application/merge-patch+json"}
        data = None if body is None else json.dumps(body).encode()
        address = f"{cluster['server']}{path}{query}"
        request = urllib.request.Request(address, data, headers, method=method)  # noqa: S310 - HTTPS
        try:
            with urllib.request.urlopen(  # noqa: S310 - HTTPS
                request, timeout=20, context=ssl.create_default_context(cadata=authority)
            ) as answer:
                found: Object = json.loads(answer.read())
        except urllib.error.HTTPError as error:
            raise ControlPlaneError(json.loads(error.read())["message"]) from error
        return found


def refused(action: Callable[[], object]) -> str:
    """Run an action that the API server must refuse, and return its message."""
    with pytest.raises(ControlPlaneError) as error:
        action()
    assert "Forbidden" in str(error.value) or "forbidden" in str(error.value)
    return str(error.value)
