"""A lab node whose guests are fakes: what it does about one that hangs at boot."""

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
    """A guest that is up at once, or whose start comes to what the test says."""

    spec: GuestSpec
    failure: LabError | None = None

    def wait_ready(self, seconds: float = 0.0) -> None:  # noqa: ARG002 - nothing is waited for
        """See ``LauncherPod.wait_ready``."""
        if self.failure is not None:
            raise self.failure


class FakesNode(LabNode):
    """A node that starts fakes, and needs nothing of this machine."""

    def __init__(self, failures: Iterable[LabError | None]) -> None:
        """Have the starts come to these, one after the other."""
        self.said: list[str] = []
        self._say = self.said.append
        self.starts: list[FakePod] = []
        self._failures = iter(failures)

    def start(self, spec: GuestSpec, pods_dir: Path | None = None) -> LauncherPod:  # noqa: ARG002 - it has no socket
        """See ``LabNode.start``."""
        self.starts.append(FakePod(spec, next(self._failures)))
        return cast("LauncherPod", self.starts[-1])


def late() -> DeadlineError:
    return DeadlineError("vm: it was not up within 60 s")


def test_a_guest_that_is_up_is_started_once() -> None:
    node = FakesNode([None])
    (pod,) = node.boot([SPEC])
    assert len(node.starts) == 1
    assert pod is cast("LauncherPod", node.starts[0])
    assert node.said == []


def test_a_guest_that_hangs_at_boot_is_started_once_more() -> None:
    node = FakesNode([late(), None])
    (pod,) = node.boot([SPEC])
    assert [each.spec for each in node.starts] == [SPEC, SPEC]
    assert pod is cast("LauncherPod", node.starts[1])
    assert node.said == ["vm: it was not up within 60 s: starting it again"]


def test_one_that_hangs_twice_is_a_failure() -> None:
    node = FakesNode([late(), late()])
    with pytest.raises(DeadlineError):
        node.boot([SPEC])
    assert len(node.starts) == 2


def test_one_that_ended_is_not_started_again() -> None:
    node = FakesNode([LabError("vm: its QEMU ended")])
    with pytest.raises(LabError, match="ended"):
        node.boot([SPEC])
    assert len(node.starts) == 1
