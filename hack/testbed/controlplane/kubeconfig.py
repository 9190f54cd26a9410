"""Writes kubeconfigs, each for one cluster and one user."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from .pki import KeyPair

_NAME = "kubeballoon"


def write(path: Path, cluster: Mapping[str, Any], user: Mapping[str, str]) -> Path:
    """Write a kubeconfig that only its owner can read, and return its path. It is JSON, which is YAML too."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": _NAME, "cluster": cluster}],
        "users": [{"name": _NAME, "user": user}],
        "contexts": [{"name": _NAME, "context": {"cluster": _NAME, "user": _NAME}}],
        "current-context": _NAME,
    }
    path.touch(mode=0o600)
    path.write_text(json.dumps(config, indent=2))
    return path


def certificate_user(pair: KeyPair) -> dict[str, str]:
    """Return the user entry of somebody who authenticates with a client certificate."""
    return {"client-certificate-data": encoded(pair.certificate), "client-key-data": encoded(pair.key)}


def encoded(data: bytes) -> str:
    """Encode bytes in base64, as in the data fields of kubeconfigs and Kubernetes objects."""
    return base64.b64encode(data).decode()
