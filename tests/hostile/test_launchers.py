"""Launcher pods in the hands of tenants: their daemons lie in every way, to the real libvirt client in a real agent.

All of them are on one node, beside a VM that is honest, so that what one does to the agent is what it does to all.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from hack.testbed.hostile.launchers import (
    ABSENT,
    HONEST,
    LAUNCHERS_LIES,
    LIARS_ANSWERS,
    LINKS,
    NEEDY,
    RunningAgent,
    node_of_liars,
)
from hack.testbed.hostile.metronome import Ticks
from kubeballoon.api.quantity import parse_quantity
from kubeballoon.api.v1alpha1 import VirtualMachineReport
from tests.support.processes import memory_limit

GIB = 1 << 30
CLAIMANTS = [name for name, (_, reason) in LAUNCHERS_LIES.items() if reason == "ImplausibleFigures"]


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningAgent]:
    """Run an agent, the honest VM's daemon, and all the others."""
    with node_of_liars(tmp_path_factory.mktemp("pods")) as running_agent:
        yield running_agent


@pytest.mark.parametrize("name", LAUNCHERS_LIES)
def test_a_launcher_that_lies_is_named_with_a_reason(agent: RunningAgent, name: str) -> None:
    reason = LAUNCHERS_LIES[name][1]
    report = agent.vm(name, lambda vm: vm.get("reason") == reason)
    assert report["responsive"] is (reason == "ImplausibleFigures"), "whose figures are bounded follows all the same"
    assert report["message"].isprintable()
    assert len(report["message"]) <= 300


@pytest.mark.parametrize("name", LINKS)
def test_a_link_in_place_of_a_socket_is_named_with_a_reason(agent: RunningAgent, name: str) -> None:
    assert agent.vm(name, lambda vm: vm.get("reason") == "SocketRefused").get("actual") is None


def test_a_pod_without_a_daemon_is_named_with_a_reason(agent: RunningAgent) -> None:
    assert agent.vm(ABSENT, lambda vm: vm.get("reason") == "Unreachable")["responsive"] is False


def test_a_guest_in_need_is_helped_beside_vms_that_claim_more_than_any_machine_has(agent: RunningAgent) -> None:
    agent.until(lambda look: all("actual" in look["vms"].get(name, {}) for name in CLAIMANTS))
    helped = agent.vm(NEEDY, lambda vm: "emergencyTarget" in vm and vm["actual"] != vm["target"])
    needy = VirtualMachineReport.model_validate(helped)
    assert needy.target == GIB // 2
    assert GIB // 2 < (needy.actual or 0) <= GIB


@pytest.mark.parametrize("name", CLAIMANTS)
def test_figures_that_no_machine_has_are_reported_within_the_vm_s_size(agent: RunningAgent, name: str) -> None:
    report = VirtualMachineReport.model_validate(agent.vm(name, lambda vm: "actual" in vm))
    assert report.size <= GIB
    assert report.actual is not None
    assert report.actual <= report.size
    assert report.responsive
    assert (report.need or 0) <= report.size


def test_what_launchers_claim_to_hold_does_not_hide_what_others_use(agent: RunningAgent) -> None:
    honest_and_liars = 4  # at the least; each claims to have 1 GiB resident, and has no process at all
    look = agent.until(lambda look: sum("actual" in vm for vm in look["vms"].values()) >= honest_and_liars)
    total, available, other = (parse_quantity(look["memory"][name]) for name in ("total", "available", "other"))
    assert other == total - available


@pytest.mark.parametrize("name", LIARS_ANSWERS)
def test_an_answer_of_brackets_costs_its_own_guest_agent_alone(agent: RunningAgent, name: str) -> None:
    garbled = agent.vm(name, lambda vm: vm.get("processors", {}).get("reason") == "GuestAgentGarbled")
    assert garbled["processors"]["responsive"] is False
    agent.vm(name, lambda vm: vm.get("reason") is None)  # its memory goes through a connection of its own


def test_guests_that_all_answer_with_brackets_at_once_hold_up_no_vm_and_cost_the_agent_little(
    agent: RunningAgent,
) -> None:
    def garbled(look: dict[str, Any]) -> bool:
        answers = [look["vms"].get(name, {}).get("processors", {}).get("reason") for name in LIARS_ANSWERS]
        return answers == ["GuestAgentGarbled"] * len(LIARS_ANSWERS)

    look = agent.until(garbled)
    for _ in range(3):
        look = agent.until(partial(are_sampled_since, look))
    assert not Ticks(**look["ticks"]).held
    assert look["peak"] < memory_limit("agent")


def are_sampled_since(before: dict[str, Any], look: dict[str, Any]) -> bool:
    """Whether the honest VM and the memory of all guests with hostile agents were looked at again."""
    return all(look["sampled"][name] > before["sampled"].get(name, 0) for name in (HONEST, *LIARS_ANSWERS))


def test_meanwhile_the_honest_vm_is_looked_at_and_the_agent_stays_small(agent: RunningAgent) -> None:
    look = agent.until(lambda look: all(look["vms"].get(name, {}).get("reason") for name in LAUNCHERS_LIES))
    first = look["sampled"][HONEST]
    look = agent.until(lambda look: look["sampled"][HONEST] > first)
    second = look["sampled"][HONEST]
    look = agent.until(lambda look: look["sampled"][HONEST] > second)
    assert look["vms"][HONEST].get("reason") is None
    assert look["vms"][HONEST]["need"]
    assert look["vms"].keys() == {HONEST, NEEDY, ABSENT, *LINKS, *LAUNCHERS_LIES, *LIARS_ANSWERS}, (
        "none vanishes from the report"
    )
    assert look["peak"] < memory_limit("agent")
    assert look["threads"] < 3 * len(look["vms"]) + 10
    assert not Ticks(**look["ticks"]).held
