"""VMs that are started again and again, with daemons that never answer: nothing of one is left after it."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from hack.testbed.lab.unix_sockets import listen
from kubeballoon.agent.hypervisor.errors import HungError
from kubeballoon.agent.hypervisor.launcher_sockets import Launcher
from kubeballoon.agent.hypervisor.libvirt import LibvirtHypervisor
from kubeballoon.agent.wait_times import DEFAULT_TIMING
from tests.support.waiting import soon

IMPATIENT = replace(DEFAULT_TIMING.libvirt, connect=0.1)


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def test_a_daemon_that_never_answers_leaves_neither_threads_nor_files_when_its_pod_is_gone(
    tmp_path: Path,
) -> None:
    hypervisor = LibvirtHypervisor(IMPATIENT)
    with listen(tmp_path / "sock"):
        await hang_and_forget(hypervisor, Launcher("first", tmp_path, "sock"))
        files, threads = descriptors(), threading.active_count()
        for restart in range(10):
            await hang_and_forget(hypervisor, Launcher(f"pod-{restart}", tmp_path, "sock"))
        await soon(lambda: descriptors() <= files and threading.active_count() <= threads, 10)


async def hang_and_forget(hypervisor: LibvirtHypervisor, launcher: Launcher) -> None:
    """Connect to a daemon that does not answer, and give it up."""
    with pytest.raises(HungError):
        await hypervisor.connect_memory(launcher, "default_restarted")
    with pytest.raises(HungError):
        await hypervisor.connect_guest(launcher, "default_restarted")
    hypervisor.forget(launcher.pod)
    await soon(lambda: not [each for each in threading.enumerate() if each.name.endswith("default_restarted")], 10)
