"""Guests as a test needs them for a while, and as the next test finds them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hack.testbed.lab import GuestSpec, LabNode, LauncherPod, LoadReport
from tests.support.patience import eventually


@contextmanager
def booted(node: LabNode, spec: GuestSpec) -> Iterator[LauncherPod]:
    """One more guest on the node meanwhile."""
    (pod,) = node.boot([spec])
    try:
        yield pod
    finally:
        node.stop(spec.name)


@contextmanager
def loaded(guest: LauncherPod, mib: int) -> Iterator[LoadReport]:
    """The guest's load holds so much meanwhile."""
    try:
        yield guest.load.set(mib)
    finally:
        guest.load.set(0)


@contextmanager
def ballooned(guest: LauncherPod, size: int) -> Iterator[None]:
    """The guest is asked for all but ``size`` bytes meanwhile, past any agent."""
    guest.set_memory(size)
    try:
        yield
    finally:
        guest.set_memory(guest.spec.memory_bytes)


_REFUSING = """\
old=$(pidof qemu-ga)
mv /usr/sbin/qemu-ga /usr/sbin/qemu-ga.real
printf '#!/bin/sh\\nexec /usr/sbin/qemu-ga.real -b {command} "$@"\\n' >/usr/sbin/qemu-ga
chmod +x /usr/sbin/qemu-ga
kill $old
"""


def refuse(guest: LauncherPod, command: str) -> None:
    """Have the guest's agent refuse a command from now on, as some distributions do."""
    guest.run(_REFUSING.format(command=command))

    def refused() -> bool:
        known = guest.agent_command("guest-info")["supported_commands"]
        return any(each["name"] == command and not each["enabled"] for each in known)

    eventually(refused)
