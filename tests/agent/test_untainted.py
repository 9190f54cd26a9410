"""Which calls of libvirt's the agent makes for a VM: the first command to a guest's agent taints the VM's domain.

A tainted domain is one that its vendor may refuse to support; libvirt marks it for as long as it runs.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import libvirt
import libvirt_qemu
import pytest

from hack.testbed.lab import MIB, GuestSpec, vmi_object
from hack.testbed.lab.unix_sockets import listen
from kubeballoon.agent.hypervisor.libvirt import LibvirtHypervisor
from kubeballoon.agent.settings import AgentSettings
from kubeballoon.agent.vm.guest_worker import GuestWorker, GuestWorkers
from kubeballoon.agent.vm.memory_worker import MemoryWorker
from kubeballoon.agent.vm.policy_backing import PolicyBacking
from kubeballoon.agent.vm.vmi import Instance, read_instance
from tests.agent.fast_timing import QUICK
from tests.support.stored import stored_domain
from tests.support.waiting import soon

pytestmark = pytest.mark.usefixtures("sockets")

HARMLESS = {"XMLDesc", "info", "memoryStats", "setMemoryFlags", "setMemoryStatsPeriod", "vcpusFlags"}
PROCESSORS = [{"logical-id": index, "online": True, "can-offline": index > 0} for index in range(2)]


@dataclass
class Domain:
    """A domain of libvirt's that notes its methods' calls, and the commands to QEMU or to the guest's agent."""

    calls: list[tuple[str, tuple[object, ...]]] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        answers = {
            "XMLDesc": stored_domain(),
            "info": [libvirt.VIR_DOMAIN_RUNNING, 4 << 20, 768 << 10, 2, 1],
            "memoryStats": {"actual": 1 << 20, "rss": 900 << 10},
            "vcpusFlags": 2,
        }

        def call(*arguments: object) -> Any:
            self.calls.append((name, arguments))
            return answers.get(name, 0)

        return call

    def count(self, name: str) -> int:
        """How often a method was called."""
        return sum(called == name for called, _ in self.calls)

    def command(self, _: object, command: str, *__: object) -> str:
        """Carry out a command to the guest's agent, or to QEMU's monitor."""
        name = json.loads(command)["execute"]
        self.commands.append(name)
        return json.dumps({"return": PROCESSORS if name == "guest-get-vcpus" else 2})


class Connection:
    """A connection of libvirt's that finds this domain."""

    def __init__(self, domain: Domain) -> None:
        self.domain = domain

    def lookupByName(self, _: str) -> Domain:  # noqa: N802 - libvirt's name
        """Find it."""
        return self.domain

    def close(self) -> None:
        """Do nothing."""


@pytest.fixture
def domain(monkeypatch: pytest.MonkeyPatch) -> Domain:
    made = Domain()
    monkeypatch.setattr(libvirt, "open", lambda _: Connection(made))
    monkeypatch.setattr(libvirt_qemu, "qemuAgentCommand", made.command)
    monkeypatch.setattr(libvirt_qemu, "qemuMonitorCommand", made.command)
    return made


def instance(**annotations: str) -> Instance:
    keys = {f"kubeballoon.io/{key.replace('_', '-')}": value for key, value in annotations.items()}
    made = vmi_object(GuestSpec(name="vm", vcpus=2, memory_bytes=1536 * MIB), "pod-vm", "here", annotations=keys)
    made["metadata"]["uid"] = "vm"
    found = read_instance(made, "here")
    assert found is not None
    return found


BALLOONED = instance(memory_target="1Gi")


@asynccontextmanager
async def working(pods: Path) -> AsyncIterator[GuestWorkers]:
    """The workers of a VM of which memory is requested, with the real code that calls libvirt."""
    hypervisor = LibvirtHypervisor()
    guest_workers = GuestWorkers(lambda instance: GuestWorker(instance, hypervisor, pods, lambda: None, QUICK))
    guest_workers.match({"vm": BALLOONED}, ["vm"])
    guest_worker = guest_workers.find("vm")
    assert guest_worker is not None
    settings = AgentSettings(pods, 60.0, 1, QUICK)
    memory_worker = MemoryWorker(BALLOONED, guest_worker.memory_hypervisor(), settings, lambda: None)
    memory_worker.update(BALLOONED, PolicyBacking())
    task = asyncio.create_task(memory_worker.run())
    try:
        yield guest_workers
    finally:
        task.cancel()
        await guest_workers.close()
        hypervisor.forget("pod-vm")


async def test_only_a_request_for_processors_has_the_guest_agent_asked(domain: Domain, tmp_path: Path) -> None:
    with listen(tmp_path / "pod-vm"):
        async with working(tmp_path) as guest_workers:
            await soon(lambda: domain.count("vcpusFlags") > 5 and domain.count("memoryStats") > 5, 10)
            assert domain.commands == []
            assert {name for name, _ in domain.calls} <= HARMLESS
            flags = {arguments[-1] for name, arguments in domain.calls if name == "vcpusFlags"}
            assert flags == {libvirt.VIR_DOMAIN_AFFECT_LIVE}, (
                "another flag would have libvirt itself ask the guest's agent"
            )
            guest_workers.match({"vm": instance(memory_target="1Gi", processor_target="1")}, ["vm"])
            await soon(lambda: "guest-get-vcpus" in domain.commands, 10)
