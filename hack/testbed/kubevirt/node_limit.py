"""A post-renderer of helm: agents take a cgroup, which limits what their node's pods use, for the node's memory.

usage: node_limit.py DIRECTORY <MANIFESTS >MANIFESTS
  DIRECTORY  has a cgroup for each node, by the node's name
"""

from __future__ import annotations

import sys
from typing import Any

import yaml

NODE_VARIABLE = "NODE_NAME"  # of the chart's agents


def limit(objects: list[dict[str, Any]], directory: str) -> None:
    """Changes the chart's only DaemonSet, the agents'.

    Raises:
        ValueError: There is none, or more than one.
    """
    (pod,) = (each["spec"]["template"]["spec"] for each in objects if each["kind"] == "DaemonSet")
    (container,) = pod["containers"]
    container["args"].append(f"--node-memory-cgroup=/nodes/$({NODE_VARIABLE})/kubepods")
    container["volumeMounts"].append({"name": "nodes", "mountPath": "/nodes", "readOnly": True})
    pod["volumes"].append({"name": "nodes", "hostPath": {"path": directory}})


if __name__ == "__main__":
    rendered = [each for each in yaml.safe_load_all(sys.stdin) if each]
    limit(rendered, sys.argv[1])
    yaml.safe_dump_all(rendered, sys.stdout)
