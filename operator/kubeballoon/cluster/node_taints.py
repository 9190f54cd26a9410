"""This module reads and writes kubeballoon's taint on Nodes, and no other."""

from __future__ import annotations

from kubeballoon.api.names import TAINT
from kubeballoon.cluster import paths
from kubeballoon.cluster.client import ApiClient, Object
from kubeballoon.vocabulary import TaintEffect


def read_taint(node: Object) -> TaintEffect | None:
    """Read the effect of our taint on a Node; None if the Node has none, or one with an effect that we never write."""
    for taint in _taints(node):
        if taint.get("key") == TAINT and taint.get("effect") in set(TaintEffect):
            return TaintEffect(taint["effect"])
    return None


def has_taint(node: Object) -> bool:
    """Whether a Node has our taint, with whatever effect."""
    return any(taint.get("key") == TAINT for taint in _taints(node))


async def write_taint(cluster: ApiClient, node: Object, effect: TaintEffect | None) -> None:
    """Give a Node our taint with an effect, or none, and leave all its other taints as they are.

    Args:
        cluster: the API server.
        node: the Node as it was last read.
        effect: the effect; None removes the taint.

    Raises:
        ConflictError: the Node has changed since it was read.
        NotFoundError: the Node is gone.
        ApiError: the API server refuses the patch, or cannot be reached.
    """
    before = _taints(node)
    after = [taint for taint in before if taint.get("key") != TAINT]
    if effect is not None:
        after.append({"key": TAINT, "effect": str(effect)})
    if after == before:
        return
    metadata = node["metadata"]
    operations: list[Object] = [
        {"op": "test", "path": "/metadata/uid", "value": metadata["uid"]},
        # A list is replaced as a whole: what others add meanwhile must not be lost.
        {"op": "replace", "path": "/metadata/resourceVersion", "value": metadata["resourceVersion"]},
        {"op": "add", "path": "/spec/taints", "value": after},
    ]
    await cluster.json_patch(paths.node(metadata["name"]), operations)


def _taints(node: Object) -> list[Object]:
    taints = node.get("spec", {}).get("taints")
    return list(taints) if isinstance(taints, list) else []
