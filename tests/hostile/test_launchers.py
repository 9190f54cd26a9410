"""Launcher pods in the hands of tenants: their daemons lie in every way, to the real libvirt client in a real agent.

All of them are on one node, beside a VM that is honest, so that what one does to the agent is what it does to all.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from kubeballoon.agent.hypervisor.launcher_sockets import RUNTIME
from kubeballoon.api.quantity import parse_quantity
from kubeballoon.api.v1alpha1 import VirtualMachineReport

ROOT = Path(__file__).parents[2]
HONEST = "honest"
GIB = 1 << 30
KIB_OF_AN_EXBIBYTE = 1 << 53
DEVICE = "<memory model='virtio-mem'><target><size>{0}</size><current>{0}</current></target></memory>"


def domain(memory: object, devices: str = "", before: str = "") -> dict[str, Any]:
    balloon = "<memballoon model='virtio'/>"
    return {
        "xml": f"{before}<domain type='kvm'><memory>{memory}</memory><devices>{balloon}{devices}</devices></domain>"
    }


LIES: dict[str, tuple[dict[str, Any], str | None]] = {
    "broken": ({"xml": "<domain"}, "DaemonGarbled"),
    "oops": (domain("oops"), "DaemonGarbled"),
    "digits": (domain("9" * 4000), "DaemonGarbled"),
    "entities": (domain("&a;" * 20000, before=f"<!DOCTYPE d [<!ENTITY a '{'1' * 30000}'>]>"), "DaemonGarbled"),
    "deep": (domain("<a>" * 30000), "DaemonGarbled"),
    "exbibyte": ({**domain(1, DEVICE.format(KIB_OF_AN_EXBIBYTE)), "memory": 1}, None),
    "exbibyte-twice": (
        {
            **domain(KIB_OF_AN_EXBIBYTE + 1048576, DEVICE.format(KIB_OF_AN_EXBIBYTE)),
            "memory": KIB_OF_AN_EXBIBYTE + 1048576,
        },
        None,
    ),
    "huge-figures": ({"memory": (1 << 64) - 1, "statistics": dict.fromkeys("0123456789", (1 << 64) - 1)}, None),
    "mute": ({"mode": "mute"}, "Hung"),
    "short": ({"mode": "short"}, "Hung"),
    "drip": ({"mode": "drip"}, "Hung"),
    "garbage": ({"mode": "garbage"}, "DaemonGarbled"),
    "long": ({"mode": "long"}, "DaemonGarbled"),
    "endless": ({"mode": "endless"}, "DaemonGarbled"),
    "unasked": ({"mode": "unasked"}, "DaemonGarbled"),
    "error": ({"error": "\x1b]0;mine\x07\x1b[2J" + "no " * 100000}, "Unreachable"),
}
"""What each daemon does, by the name of its VM, and the reason that its VM is reported with."""
NEEDY = "needy"
"""An honest VM that is left half of its memory by request, and works with nearly all of that."""
NEEDS = {"6": 524288, "7": 524288, "8": 1000, "5": 1000000, "4": 500}  # KiB
ABSENT = "absent"  # the VM in whose pod no daemon listens
LINKED = "linked"  # the VM whose socket is a link to the honest one's
LIARS_ANSWERS = {
    "brackets": '{"return":[' + "[]," * 20000 + "[]]}",
    "long-answer": '{"return":[' + "[]," * 1400000 + "[]]}",
}


@dataclass
class RunningAgent:
    """An agent on a node of liars, and what it said last."""

    process: subprocess.Popen[str]

    def look(self) -> dict[str, Any]:
        """Wait for what the agent prints next."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the agent has ended"
        found: dict[str, Any] = json.loads(line)
        return found

    def until(self, condition: Callable[[dict[str, Any]], object], looks: int = 240) -> dict[str, Any]:
        """Look until the condition is true, and return that look."""
        for _ in range(looks):
            look = self.look()
            if condition(look):
                return look
        pytest.fail(f"not so after {looks} looks; the last of them: {look}")

    def vm(self, name: str, condition: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """Look until the condition is true of a VM's report, and return that."""
        found: dict[str, Any] = self.until(lambda look: name in look["vms"] and condition(look["vms"][name]))
        return dict(found["vms"][name])


def daemons(file: Path, sockets: dict[str, dict[str, Any]]) -> list[str]:
    file.write_text(json.dumps(sockets))
    return ["tests.hostile.lying_daemon", str(file)]


@contextmanager
def running(*modules: list[str], prefix: Sequence[str] = ()) -> Iterator[list[subprocess.Popen[str]]]:
    """Run modules, each with its arguments, as processes inside the context, through the command ``prefix``."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'operator'}:{ROOT}"}
    with ExitStack() as started:
        processes = []
        for module in modules:
            command = [*prefix, sys.executable, "-m", *module]
            process = started.enter_context(
                subprocess.Popen(
                    command, cwd=ROOT, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
                )
            )
            started.callback(process.kill)
            processes.append(process)
        yield processes


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningAgent]:
    """Run an agent, the honest VM's daemon, and all the others."""
    pods = tmp_path_factory.mktemp("pods")
    liars = {name: lies for name, (lies, _) in LIES.items()}
    liars |= {name: {"agent": answer} for name, answer in LIARS_ANSWERS.items()}
    names = [HONEST, NEEDY, LINKED, ABSENT, *liars]
    sockets = {name: pods / f"pod-{name}" / RUNTIME / "virtqemud-sock" for name in names}
    for each in sockets.values():
        each.parent.mkdir(parents=True)
    sockets[LINKED].symlink_to(sockets[HONEST])
    honest = daemons(pods / "honest.json", {str(sockets[HONEST]): {}, str(sockets[NEEDY]): {"statistics": NEEDS}})
    lying = daemons(pods / "lying.json", {str(sockets[name]): lies for name, lies in liars.items()})
    with running(honest, lying) as started:
        for daemon in started:
            assert daemon.stdout is not None
            assert daemon.stdout.readline() == "ready\n"
        with running(["tests.hostile.agent_process", str(pods), NEEDY, *names]) as (process,):
            yield RunningAgent(process)


@pytest.mark.parametrize("name", [name for name, (_, reason) in LIES.items() if reason is not None])
def test_a_launcher_that_lies_is_named_with_a_reason(agent: RunningAgent, name: str) -> None:
    reason = LIES[name][1]
    report = agent.vm(name, lambda vm: vm.get("reason") == reason)
    assert not report["responsive"]
    assert report["message"].isprintable()
    assert len(report["message"]) <= 300


def test_a_link_in_place_of_a_socket_is_named_with_a_reason(agent: RunningAgent) -> None:
    assert agent.vm(LINKED, lambda vm: vm.get("reason") == "SocketRefused").get("actual") is None


def test_a_pod_without_a_daemon_is_named_with_a_reason(agent: RunningAgent) -> None:
    assert agent.vm(ABSENT, lambda vm: vm.get("reason") == "Unreachable")["responsive"] is False


def test_a_guest_in_need_is_helped_beside_vms_that_claim_more_than_any_machine_has(agent: RunningAgent) -> None:
    liars = ("exbibyte", "exbibyte-twice", "huge-figures")
    agent.until(lambda look: all("actual" in look["vms"].get(name, {}) for name in liars))
    helped = agent.vm(NEEDY, lambda vm: "emergencyTarget" in vm and vm["actual"] != vm["target"])
    needy = VirtualMachineReport.model_validate(helped)
    assert needy.target == GIB // 2
    assert GIB // 2 < (needy.actual or 0) <= GIB


@pytest.mark.parametrize("name", ["exbibyte", "exbibyte-twice", "huge-figures"])
def test_figures_that_no_machine_has_are_reported_within_the_vm_s_size(agent: RunningAgent, name: str) -> None:
    report = VirtualMachineReport.model_validate(agent.vm(name, lambda vm: "actual" in vm))
    assert report.size <= GIB
    assert report.actual is not None
    assert report.actual <= report.size
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


def test_meanwhile_the_honest_vm_is_looked_at_and_the_agent_stays_small(agent: RunningAgent) -> None:
    named = {name for name, (_, reason) in LIES.items() if reason is not None}
    look = agent.until(lambda look: all(look["vms"].get(name, {}).get("reason") for name in named))
    first = look["sampled"][HONEST]
    look = agent.until(lambda look: look["sampled"][HONEST] > first)
    second = look["sampled"][HONEST]
    look = agent.until(lambda look: look["sampled"][HONEST] > second)
    assert look["vms"][HONEST].get("reason") is None
    assert look["vms"][HONEST]["need"]
    assert look["vms"].keys() == {HONEST, NEEDY, LINKED, ABSENT, *LIES, *LIARS_ANSWERS}, "none vanishes from the report"
    values = yaml.safe_load((ROOT / "charts/kubeballoon/values.yaml").read_text())
    assert look["peak"] < parse_quantity(values["agent"]["resources"]["limits"]["memory"])
    assert look["threads"] < 3 * len(look["vms"]) + 10
