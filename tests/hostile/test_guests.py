"""A guest whose root put another program in the place of its guest agent, behind real QEMU and libvirt."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import pytest

from hack.testbed.lab import GuestSpec, LabNode, LauncherPod
from kubeballoon.agent.hypervisor.errors import GuestAgentError
from kubeballoon.agent.hypervisor.launcher_sockets import require_launcher
from kubeballoon.agent.hypervisor.libvirt import LibvirtHypervisor
from kubeballoon.agent.hypervisor.qemu_guest_agent import GuestAgent
from tests.support.waiting import SLOW

# What it answers to which command: many values in few characters, more of them than are looked at, and depth.
LIES = {"guest-get-vcpus": ("[],", 15_000), "guest-get-osinfo": ("[],", 600_000), "guest-file-open": ("[", 20_000)}
ASK: dict[str, Callable[[GuestAgent], Awaitable[object]]] = {
    "guest-get-vcpus": GuestAgent.processors,
    "guest-get-osinfo": GuestAgent.system,
    "guest-file-open": lambda guest_agent: guest_agent.read_file("/etc/hostname"),
}
LIAR = """#!/bin/sh
exec 3<>/dev/virtio-ports/org.qemu.guest_agent.0
while read -r line <&3; do
  id=$(echo "$line" | sed -n 's/.*"id": *\\([0-9]*\\).*/\\1/p')
  case $line in
    *guest-sync-delimited*) printf '\\377{"return":%s}\\n' "$id" >&3 ;;
    *guest-sync*) printf '{"return":%s}\\n' "$id" >&3 ;;
    *) cat "/run/$(echo "$line" | sed -n 's/.*"execute": *"\\([a-z-]*\\)".*/\\1/p')" >&3 ;;
  esac
done
"""


def lying(command: str) -> str:
    """Write the shell command that makes the file with a lie."""
    piece, times = LIES[command]
    end = "[]]" if piece.endswith(",") else "]" * times
    return (
        f"""{{ printf '{{"return":['; yes '{piece}' | head -n {times} | tr -d '\\n'; printf '%s}}\\n' '{end}'; }}"""
        f" >/run/{command}"
    )


@pytest.fixture(scope="module")
def liar(lab_node: LabNode) -> Iterator[LauncherPod]:
    """Boot a guest, and replace its guest agent; the guest starts the new one when the old one ends."""
    (pod,) = lab_node.boot([GuestSpec(name="liar")])
    pod.write_file("/run/liar", LIAR.encode())
    replaced = 'agent=$(readlink -f "$(which qemu-ga)"); rm "$agent"; cp /run/liar "$agent"; chmod +x "$agent"'
    pod.run(f"{'; '.join(map(lying, LIES))}; {replaced}; killall qemu-ga")
    yield pod
    lab_node.stop("liar")


@asynccontextmanager
async def guest_agent_of(pod: LauncherPod) -> AsyncIterator[GuestAgent]:
    """Connect to the guest agent of a pod's guest, as the agent does."""
    hypervisor, guest_agent = LibvirtHypervisor(), GuestAgent()
    launcher = require_launcher(pod.pods, [pod.uid])
    guest_agent.control = await hypervisor.open(launcher, pod.spec.domain_name)
    try:
        yield guest_agent
    finally:
        hypervisor.forget(pod.uid)


async def failure(pod: LauncherPod, command: str) -> str:
    """Ask the guest agent, and return the reason of its failure; empty where it answered."""
    async with guest_agent_of(pod) as guest_agent:
        try:
            await ASK[command](guest_agent)
        except GuestAgentError as error:
            return error.reason
        return ""


@pytest.mark.parametrize("command", LIES)
async def test_a_guest_that_lies_through_its_guest_agent_is_named_and_its_memory_is_still_seen(
    liar: LauncherPod, command: str
) -> None:
    async with asyncio.timeout(SLOW):  # until the new guest agent has taken the old one's place
        while await failure(liar, command) != "GuestAgentGarbled":  # noqa: ASYNC110 - a guest's change is no event
            await asyncio.sleep(0.5)
    hypervisor = LibvirtHypervisor()
    control = await hypervisor.connect(require_launcher(liar.pods, [liar.uid]), liar.spec.domain_name)
    sample = await control.sample()
    assert sample.running
    assert sample.resident
    control.close()
    hypervisor.forget(liar.uid)
