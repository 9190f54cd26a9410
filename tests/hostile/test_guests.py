"""Guests whose root lies in the guest agent's place, behind real QEMU and libvirt, beside an honest guest."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from hack.testbed.hostile.launchers import RunningAgent, running
from hack.testbed.hostile.metronome import Ticks
from hack.testbed.lab import MIB, GuestSpec, LabNode, LauncherPod
from tests.support.processes import memory_limit
from tests.support.waiting import eventually

pytestmark = pytest.mark.guest

GUESTS_LIES = {
    "brackets": "GuestAgentGarbled",
    "long": "GuestAgentGarbled",
    "deep": "GuestAgentGarbled",
    "escape": "GuestAgentRefused",
    "silence": "GuestAgentHung",
    "wrong-id": "GuestAgentHung",
}
"""What one guest's program does in turn, words of lying_agent.c, and the reason that is reported for that."""
ENDLESS = {"endless": {"GuestAgentGarbled", "GuestAgentHung"}, "flood": {"GuestAgentGarbled", "GuestAgentHung"}}
"""What other guests' programs do from the start; libvirt gives such an agent up, which then does not answer."""
HONEST, CHANGING = "honest", "changing"
NODE_MEMORY = 4096 * MIB  # a libvirt daemon takes up to 500 MiB for an answer of 1.8 MB, and is not to be killed then


@dataclass
class NodeOfLiars:
    """A running agent, and the pods of its VMs by what they do."""

    agent: RunningAgent
    pods: dict[str, LauncherPod]

    def name(self, what: str) -> str:
        """Return the name of a VM."""
        return self.pods[what].spec.name


@pytest.fixture(scope="module")
def node() -> Iterator[NodeOfLiars]:
    """Boot an honest guest and the liars, each with two processors of which it is to use one, and run an agent."""
    lies = {HONEST: "", CHANGING: "honest", **{lie: lie for lie in ENDLESS}}
    specs = [
        GuestSpec(name=f"{what}-{os.getpid()}", lie=lie, memory_bytes=96 * MIB, vcpus=2, stats_period=1)
        for what, lie in lies.items()  # agents find a QEMU by its guest's name
    ]
    with LabNode("liars", NODE_MEMORY) as lab:
        pods = dict(zip(lies, lab.boot(specs), strict=True))
        vms = [f"{pod.spec.name}={pod.uid}" for pod in pods.values()]
        with running(["hack.testbed.hostile.agent_process", str(lab.pods_dir), "", *vms]) as (process,):
            yield NodeOfLiars(RunningAgent(process), pods)


def all_sampled_since(before: dict[str, Any], look: dict[str, Any]) -> bool:
    return all(look["sampled"][name] > sampled for name, sampled in before["sampled"].items())


def check_memory_is_seen(node: NodeOfLiars, name: str) -> None:
    """Check that a liar's memory goes on being looked at, through a connection of its own."""
    sampled = node.agent.look()["sampled"][name]
    node.agent.until(lambda look: look["sampled"][name] > sampled)
    assert node.agent.vm(name, lambda vm: vm.get("reason") is None)["need"]


@pytest.mark.parametrize("lie", GUESTS_LIES)
def test_a_guest_that_lies_through_its_guest_agent_is_named_and_its_memory_is_still_seen(
    node: NodeOfLiars, lie: str
) -> None:
    name, pod = node.name(CHANGING), node.pods[CHANGING]
    eventually(lambda: pod.agent_command("lie-honest") == {})
    node.agent.vm(name, lambda vm: vm["processors"].get("reason") is None)
    eventually(lambda: pod.agent_command(f"lie-{lie}") == {})
    report = node.agent.vm(name, lambda vm: vm["processors"].get("reason") == GUESTS_LIES[lie])
    assert report["processors"]["message"].isprintable()
    assert len(report["processors"]["message"]) <= 300
    check_memory_is_seen(node, name)


@pytest.mark.parametrize("lie", ENDLESS)
def test_a_guest_whose_answer_does_not_end_is_named_and_its_memory_is_still_seen(node: NodeOfLiars, lie: str) -> None:
    name = node.name(lie)
    node.agent.vm(name, lambda vm: vm["processors"].get("reason") in ENDLESS[lie])
    check_memory_is_seen(node, name)


def test_meanwhile_the_honest_guest_follows_and_the_agent_stays_small(node: NodeOfLiars) -> None:
    honest = node.name(HONEST)
    look = node.agent.vm(honest, lambda vm: vm["processors"].get("online") == 1)
    assert look["processors"].get("reason") is None
    assert look.get("reason") is None
    look = node.agent.look()
    for _ in range(3):
        look = node.agent.until(partial(all_sampled_since, look))
    assert look["peak"] < memory_limit("agent")
    assert look["threads"] < 3 * len(look["vms"]) + 10
    assert not Ticks(**look["ticks"]).held
