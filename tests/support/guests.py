"""Guests as a test needs them for a while, and as the next test finds them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hack.lab import GuestSpec, LabNode, LauncherPod, LoadReport


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
