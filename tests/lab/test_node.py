"""A lab node starts a guest that hangs at boot once more; the guests are fakes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest

from hack.testbed.lab import GuestSpec, LabError, LabNode, LauncherPod
from hack.testbed.lab.errors import DeadlineError

SPEC = GuestSpec(name="vm")


@dataclass
class FakePod:
    """A guest that is up at once, or whose start fails with the error that the test sets."""

    spec: GuestSpec
    failure: LabError | None = None

    def wait_ready(self, seconds: float = 0.0) -> None:  # noqa: ARG002 - nothing is waited for
        """Raise the failure, if there is one; a LauncherPod waits here until its guest is up."""
        if self.failure is not None:
            raise self.failure


class NodeOfFakes(LabNode):
    """A node that starts fake pods, and so needs no root, cgroups or QEMU."""

    def __init__(self, failures: Iterable[LabError | None]) -> None:
        """Let the starts fail with these errors, in order; None: the start succeeds."""
        self.lines: list[str] = []
        self._say = self.lines.append
        self.starts: list[FakePod] = []
        self._failures = iter(failures)

    def start(self, spec: GuestSpec, pods_dir: Path | None = None) -> LauncherPod:  # noqa: ARG002 - it has no socket
        """Start a fake pod with the next failure."""
        self.starts.append(FakePod(spec, next(self._failures)))
        return cast("LauncherPod", self.starts[-1])


def late() -> DeadlineError:
    return DeadlineError("vm: it was not up within 60 s")


def test_a_guest_that_is_up_is_started_once() -> None:
    node = NodeOfFakes([None])
    (pod,) = node.boot([SPEC])
    assert len(node.starts) == 1
    assert pod is cast("LauncherPod", node.starts[0])
    assert node.lines == []


def test_a_guest_that_hangs_at_boot_is_started_once_more() -> None:
    node = NodeOfFakes([late(), None])
    (pod,) = node.boot([SPEC])
    assert [each.spec for each in node.starts] == [SPEC, SPEC]
    assert pod is cast("LauncherPod", node.starts[1])
    assert node.lines == ["vm: it was not up within 60 s: starting it again"]


def test_a_guest_that_hangs_twice_is_an_error() -> None:
    node = NodeOfFakes([late(), late()])
    with pytest.raises(DeadlineError):
        node.boot([SPEC])
    assert len(node.starts) == 2


def test_a_guest_that_ended_is_not_started_again() -> None:
    node = NodeOfFakes([LabError("vm: its QEMU ended")])
    with pytest.raises(LabError, match="ended"):
        node.boot([SPEC])
    assert len(node.starts) == 1
