"""Context managers that put guests into a state for a test, and restore it for the next test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hack.testbed.lab import GuestSpec, LabNode, LauncherPod, LoadReport
from tests.support.waiting import eventually


@contextmanager
def booted(node: LabNode, spec: GuestSpec) -> Iterator[LauncherPod]:
    """Run one more guest on the node inside the context."""
    (pod,) = node.boot([spec])
    try:
        yield pod
    finally:
        node.stop(spec.name)


@contextmanager
def loaded(guest: LauncherPod, mib: int) -> Iterator[LoadReport]:
    """Let the guest's load hold ``mib`` MiB inside the context."""
    try:
        yield guest.load.set(mib)
    finally:
        guest.load.set(0)


@contextmanager
def ballooned(guest: LauncherPod, size: int) -> Iterator[None]:
    """Set the balloon to leave the guest ``size`` bytes inside the context, without kubeballoon's agent."""
    guest.set_memory(size)
    try:
        yield
    finally:
        guest.set_memory(guest.spec.memory_bytes)


# Wraps the guest agent in a script that blocks a command; init starts the wrapper when the agent is killed.
_REFUSING = """\
old=$(pidof qemu-ga)
mv /usr/sbin/qemu-ga /usr/sbin/qemu-ga.real
printf '#!/bin/sh\\nexec /usr/sbin/qemu-ga.real -b {command} "$@"\\n' >/usr/sbin/qemu-ga
chmod +x /usr/sbin/qemu-ga
kill $old
"""


def refuse(guest: LauncherPod, command: str) -> None:
    """Make the guest's agent refuse a command from now on, as some distributions configure it."""
    guest.run(_REFUSING.format(command=command))

    def refused() -> bool:
        known = guest.agent_command("guest-info")["supported_commands"]
        return any(each["name"] == command and not each["enabled"] for each in known)

    eventually(refused)
