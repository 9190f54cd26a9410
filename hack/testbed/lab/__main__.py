"""`python -m hack.testbed.lab up` boots guests, and runs them until Ctrl-C."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path

from kubeballoon.api.quantity import parse_quantity
from kubeballoon.options import checked

from . import image
from .errors import LabError
from .guest_spec import MIB, GuestSpec
from .kubernetes_objects import node_object, vmi_object
from .lab_node import LabNode


def main() -> int:
    """Build the guests' image, or run a node with guests; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m hack.testbed.lab", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build", help="only build the image that guests boot")
    up = commands.add_parser("up", help="boot guests, and run them until Ctrl-C")
    size = checked(parse_quantity, "quantity")
    up.add_argument("--guests", type=int, default=2)
    up.add_argument("--memory", type=size, default=256 * MIB, help="of each guest (default: 256Mi)")
    up.add_argument("--node-memory", type=size, default=1024 * MIB, help="(default: 1Gi)")
    up.add_argument("--objects", type=Path, metavar="FILE", help="write the node and its VMIs here, to be applied")
    options = parser.parse_args()
    try:
        if options.command == "build":
            print(image.build().directory)
        else:
            _up(options.guests, options.memory, options.node_memory, options.objects)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        pass
    return 0


def _up(guests: int, memory: int, node_memory: int, objects: Path | None) -> None:
    with LabNode("lab", node_memory) as node:
        pods = node.boot(GuestSpec(name=f"vm-{number + 1}", memory_bytes=memory) for number in range(guests))
        for pod in pods:
            print(f"{pod.spec.name}: virsh -c 'qemu+unix:///session?socket={pod.socket}'")
        if objects:
            items = [node_object("lab", node_memory), *(vmi_object(pod.spec, pod.uid, "lab") for pod in pods)]
            objects.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
        print(f"pods: {node.pods_dir}, memory cgroup: {node.cgroup}; Ctrl-C ends it")
        signal.pause()


if __name__ == "__main__":
    sys.exit(main())
