"""The cluster's network namespace: its addresses exist there and nowhere else, and no interface leads out of it."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from hack.testbed.controlplane import ControlPlaneError
from hack.testbed.controlplane.commands import run

API_SERVICE = "10.96.0.1"
DNS_SERVICE = "10.96.0.10"
NODE_ADDRESSES = ("198.51.100.1", "198.51.100.2")  # RFC 5737: nobody's
LOOPBACK = "127.0.0.1"
API_PORT = 443
_POD_NETWORK = "10.244.0.0/16"
_SECONDS = 30.0


def create(namespace: Path) -> None:
    """Make the namespace, held open by a mount on the file, with the addresses of services and nodes.

    Both nodes are in it: a pod on one reaches the pods of the other through the one bridge that CNI makes.
    """
    namespace.touch()
    run(["unshare", f"--net={namespace}", "true"], seconds=_SECONDS)
    command = inside(namespace)
    run([*command, "ip", "link", "set", "lo", "up"], seconds=_SECONDS)
    for address in (API_SERVICE, DNS_SERVICE, *NODE_ADDRESSES):
        run([*command, "ip", "address", "add", f"{address}/32", "dev", "lo"], seconds=_SECONDS)


def remove(namespace: Path) -> None:
    """Let the namespace go; it ends with the last process in it. Do nothing if it is not there."""
    while os.path.ismount(namespace):
        run(["umount", namespace], seconds=_SECONDS)
    namespace.unlink(missing_ok=True)


def inside(namespace: Path) -> list[str]:
    """What a command is prefixed with to run in the namespace."""
    return ["nsenter", f"--net={namespace}", "--"]


def plugin_configuration(number: int) -> dict[str, object]:
    """What CNI does for the pods of a node: each gets an address of the node's own range, on the common bridge."""
    addresses = {
        "subnet": _POD_NETWORK,
        "rangeStart": f"10.244.{number}.1",
        "rangeEnd": f"10.244.{number}.254",
        "gateway": "10.244.0.1",
    }
    ipam = {"type": "host-local", "ranges": [[addresses]], "routes": [{"dst": "0.0.0.0/0"}]}
    bridge = {"type": "bridge", "bridge": "pods", "isGateway": True, "hairpinMode": True, "ipam": ipam}
    return {"cniVersion": "0.4.0", "name": "pods", "plugins": [bridge]}


def listen(port: int) -> socket.socket:
    """A socket that listens on this machine's loopback.

    Raises:
        ControlPlaneError: The port is in use.
    """
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((LOOPBACK, port))
    except OSError as error:
        listener.close()
        raise ControlPlaneError(f"port {port} of {LOOPBACK} is not free: {error.strerror}") from error
    listener.listen()
    return listener


def free_port() -> int:
    """A port of this machine's loopback that nobody listens on."""
    with listen(0) as listener:
        return int(listener.getsockname()[1])
