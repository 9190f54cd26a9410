"""Whoever stole the token of a node's agent or of the controller, against real API server, agent and controller."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import count
from pathlib import Path

import pytest

from hack.testbed.chart import NAMESPACE, agent_kubeconfig
from hack.testbed.controlplane import ControlPlane
from hack.testbed.hostile.launchers import RunningAgent
from hack.testbed.hostile.metronome import Ticks
from kubeballoon.api.quantity import parse_quantity
from kubeballoon.cluster import paths
from tests.support.cluster import FakeNode, Object, condition, memory_policy
from tests.support.honest_agents import agent_of
from tests.support.processes import Command, await_leadership, controller, memory_limit
from tests.support.thieves import THEFTS, Thief, refused
from tests.support.waiting import until

pytestmark = pytest.mark.cluster

GIB = 1 << 30
SECONDS = 90.0  # in which a busy machine gets done what a quiet one does in a second or two
NAMED = re.compile(r'User "system:serviceaccount:\S+-controller" cannot|denied request: \w')  # who, or why
FORGED = 1024  # VMs, as many as a report may have

COUNTS = """
from pathlib import Path
from hack.testbed.hostile.metronome import counted
from kubeballoon.controller import main
main._run = counted(main._run, Path({ticks!r}))
"""


@dataclass(frozen=True)
class Decider:
    """A Decider is a controller that leads, of which one can tell whether its event loop is held."""

    command: Command
    written: Path

    @property
    def ticks(self) -> Ticks:
        """How far its event loop has counted."""
        return Ticks(**json.loads(self.written.read_text()))

    def check(self) -> None:
        """Check that its event loop was not held, and that it stays within its memory limit."""
        assert self.ticks.loop > 0
        assert not self.ticks.held
        assert self.command.peak_memory() < memory_limit("controller")
        assert "Traceback" not in self.command.output()


@pytest.fixture
def decider(installed: ControlPlane, tmp_path: Path) -> Iterator[Decider]:
    ticks = tmp_path / "ticks"
    after = COUNTS.format(ticks=str(ticks))
    with controller(installed, tmp_path / "log", "--cool-down=1s", after=after) as command:
        await_leadership(command)
        yield Decider(command, ticks)


@pytest.fixture
def other(installed: ControlPlane, namespace: str) -> Iterator[FakeNode]:
    """Another node, whose VMs are in the same namespace."""
    made = FakeNode(installed, f"other-{namespace}", namespace)
    yield made
    made.remove()


def check_a_round(node: FakeNode, name: str) -> None:
    """Check that the controller decides for a node: a VM more there, and each has a request."""
    node.add(name)
    node.report()
    until(lambda: node.targets().keys() == node.vms.keys(), SECONDS)


def forged(node: FakeNode, turn: int) -> Object:
    """Return the status of a node that names the VMs of another one, and such as are nowhere: new ones each turn."""
    size = {"size": "1Gi", "actual": "1Gi", "need": "1Mi", "namespace": node.namespace, "target": f"{turn}Mi"}
    invented = [{**size, "uid": f"{turn}-{number}", "name": f"vm-{number}"} for number in range(FORGED - len(node.vms))]
    named = [{**vm, "need": "1Mi"} for vm in node.vms.values()]
    memory = {"total": "1Gi", "available": "1Mi", "other": "0", "reserve": "0"}
    moment = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"observedAt": moment, "state": "Critical", "memory": memory, "virtualMachines": [*named, *invented]}


def test_an_agent_that_names_other_nodes_vms_and_a_thousand_more_each_time_holds_up_nobody_and_is_named(
    installed: ControlPlane, node: FakeNode, other: FakeNode, decider: Decider
) -> None:
    installed.apply(memory_policy("default"))
    thief = Thief(json.loads(agent_kubeconfig(installed, other.name).read_text()))

    def forge(turn: int) -> None:
        thief.patch(paths.node_pressure_status(other.name), {"status": forged(node, turn)})

    for turn, name in enumerate("ab", start=1):
        check_a_round(node, name)
        forge(turn)
    node.report(follow=True)
    targets = node.targets()
    turns = count(3)

    def is_named() -> bool:
        forge(next(turns))
        return condition(installed, "default", "Degraded").get("reason") == "Misreported"

    until(is_named, SECONDS)
    message = condition(installed, "default", "Degraded")["message"]
    assert message.startswith(f"{other.name} reports VMs that it does not run"), message
    assert node.targets() == targets
    check_a_round(node, "c")
    decider.check()


def attempts(vm: str, node: str) -> list[tuple[str, str, Object | None]]:
    """Return methods, paths and bodies of what somebody with the controller's token may want to do, and may not."""
    lease = f"{paths.leases(NAMESPACE)}/kubeballoon-controller"
    finalizers: Object = {"metadata": {"finalizers": ["example.com/never"]}}
    return [
        *(("PATCH", vm, body) for body in THEFTS.values()),
        ("PATCH", vm, {}),
        ("GET", vm, None),
        ("DELETE", vm, None),
        ("PATCH", lease, finalizers),
        ("PATCH", lease, {"spec": {"holderIdentity": "thief"}}),
        ("DELETE", lease, None),
        ("PATCH", paths.node(node), {"spec": {"unschedulable": True}}),
        ("PATCH", paths.node_pressure_status(node), {"status": {"virtualMachines": []}}),
        ("GET", f"/api/v1/namespaces/{NAMESPACE}/secrets", None),
    ]


def test_a_stolen_controllers_token_stops_neither_controller_nor_agents_and_takes_no_vm_below_its_minimum(
    installed: ControlPlane, node: FakeNode, other: FakeNode, decider: Decider, tmp_path: Path
) -> None:
    installed.apply(memory_policy("default", memory={"min": "50%"}))
    thief = Thief.of(installed, "controller")
    for name in ("victim", "beside"):
        other.add(name, size=GIB)
    installed.kubectl("annotate", "vmi", "victim", "kubeballoon.io/exclude=false", f"--namespace={other.namespace}")
    victim = paths.instance(other.namespace, "victim")
    targets = count(1)

    def squeeze() -> None:
        target = f"{next(targets)}Mi"  # another each time: a patch that changes nothing is refused
        request = {"memory-target": target, "memory-min": "1Mi", "policy": "default"}
        annotations = {f"kubeballoon.io/{key}": value for key, value in request.items()}
        thief.patch(victim, {"metadata": {"annotations": annotations}})

    with agent_of(installed, other.name, tmp_path / "pods", "victim", "beside") as agent:
        look = agent.until(lambda look: look["vms"].keys() == {"victim", "beside"} <= look["sampled"].keys())
        for name in "ab":
            for method, path, body in attempts(victim, other.name):
                assert NAMED.search(refused(partial(thief.send, method, path, body))), (method, path, body)
            check_a_round(node, name)
            look = look_at_all_again(agent, look, squeeze)
        assert not Ticks(**look["ticks"]).held
        assert look["peak"] < memory_limit("agent")
    decider.check()


def look_at_all_again(agent: RunningAgent, before: Object, squeeze: Callable[[], None]) -> Object:
    """Wait until the agent has sampled all its VMs again, and has followed a forged request as far as a policy allows.

    The controller puts its own request in the place of the forged one, which is therefore written again and again.
    """
    followed: set[int] = set()

    def is_enough(look: Object) -> bool:
        squeeze()
        followed.add(parse_quantity(look["vms"]["victim"]["actual"]))
        assert min(followed) >= GIB // 2, "the least that its policy promises"
        return min(followed) < GIB and all(look["sampled"][name] > before["sampled"][name] for name in look["vms"])

    return agent.until(is_enough)
