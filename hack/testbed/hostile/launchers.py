"""A node of hostile launchers: what their daemons answer, and an agent among them that says what it sees."""

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

from kubeballoon.agent.hypervisor.launcher_sockets import RUNTIME

_ROOT = Path(__file__).parents[3]
HONEST = "honest"
_KIB_OF_AN_EXBIBYTE = 1 << 53
_DEVICE = "<memory model='virtio-mem'><target><size>{0}</size><current>{0}</current></target></memory>"


def _domain(memory: object, devices: str = "", before: str = "") -> dict[str, Any]:
    balloon = "<memballoon model='virtio'/>"
    return {
        "xml": f"{before}<domain type='kvm'><memory>{memory}</memory><devices>{balloon}{devices}</devices></domain>"
    }


LAUNCHERS_LIES: dict[str, tuple[dict[str, Any], str]] = {
    "broken": ({"xml": "<domain"}, "DaemonGarbled"),
    "oops": (_domain("oops"), "DaemonGarbled"),
    "digits": (_domain("9" * 4000), "DaemonGarbled"),
    "entities": (_domain("&a;" * 20000, before=f"<!DOCTYPE d [<!ENTITY a '{'1' * 30000}'>]>"), "DaemonGarbled"),
    "deep": (_domain("<a>" * 30000), "DaemonGarbled"),
    "exbibyte": ({**_domain(1, _DEVICE.format(_KIB_OF_AN_EXBIBYTE)), "memory": 1}, "ImplausibleFigures"),
    "exbibyte-twice": (
        {
            **_domain(_KIB_OF_AN_EXBIBYTE + 1048576, _DEVICE.format(_KIB_OF_AN_EXBIBYTE)),
            "memory": _KIB_OF_AN_EXBIBYTE + 1048576,
        },
        "ImplausibleFigures",
    ),
    "huge-figures": (
        {"memory": (1 << 64) - 1, "statistics": dict.fromkeys("0123456789", (1 << 64) - 1)},
        "ImplausibleFigures",
    ),
    "hundred-gibibytes": (_domain(100 << 20) | {"memory": 100 << 20}, "ImplausibleFigures"),  # its object says one
    "silent": ({"mode": "silent"}, "Hung"),
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
_NEEDS = {"6": 524288, "7": 524288, "8": 1000, "5": 1000000, "4": 500}  # KiB
ABSENT = "absent"  # the VM in whose pod no daemon listens
LINKS = {"linked": "the honest one's socket", "linked-nowhere": "nowhere", "linked-overlong": "x" * 4000}
"""What links stand for in place of sockets, by the names of their VMs."""


def _brackets(count: int) -> str:
    """Write a guest agent's answer of many small lists, each of which costs many times its length once it is parsed."""
    return '{"return":[' + "[]," * count + "[]]}"


LIARS_ANSWERS = {
    "brackets": _brackets(20000),
    **{f"long-answer-{number}": _brackets(1400000) for number in range(5)},  # 4 MB, more than the relay lets pass
    **{f"full-message-{number}": _brackets(349000) for number in range(5)},  # 1 MB, as much as it lets pass
}
"""What hostile guests' agents answer, several of them at once, by the names of their VMs."""


@dataclass
class RunningAgent:
    """An agent on a node of liars, and what it said last."""

    process: subprocess.Popen[str]

    def look(self) -> dict[str, Any]:
        """Wait for what the agent prints next.

        Raises:
            EOFError: the agent has ended.
        """
        line = "" if self.process.stdout is None else self.process.stdout.readline()
        if not line:
            raise EOFError("the agent has ended")
        found: dict[str, Any] = json.loads(line)
        return found

    def until(self, condition: Callable[[dict[str, Any]], object], looks: int = 240) -> dict[str, Any]:
        """Look until the condition is true, and return that look.

        Raises:
            TimeoutError: it is not true after so many looks.
        """
        for _ in range(looks):
            look = self.look()
            if condition(look):
                return look
        raise TimeoutError(f"not so after {looks} looks; the last of them: {look}")

    def vm(self, name: str, condition: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """Look until the condition is true of a VM's report, and return that."""
        found: dict[str, Any] = self.until(lambda look: name in look["vms"] and condition(look["vms"][name]))
        return dict(found["vms"][name])


def daemons(file: Path, sockets: dict[str, dict[str, Any]]) -> list[str]:
    """Write to a file what daemons answer, by their sockets; return the module that runs them, for `running`."""
    file.write_text(json.dumps(sockets))
    return ["hack.testbed.hostile.lying_daemon", str(file)]


@contextmanager
def running(*modules: list[str], prefix: Sequence[str] = ()) -> Iterator[list[subprocess.Popen[str]]]:
    """Run modules, each with its arguments, as processes inside the context, through the command ``prefix``."""
    environment = {**os.environ, "PYTHONPATH": f"{_ROOT / 'operator'}:{_ROOT}"}
    with ExitStack() as started:
        processes = []
        for module in modules:
            command = [*prefix, sys.executable, "-m", *module]
            process = started.enter_context(
                subprocess.Popen(
                    command, cwd=_ROOT, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
                )
            )
            started.callback(process.kill)
            processes.append(process)
        yield processes


@contextmanager
def node_of_liars(pods: Path) -> Iterator[RunningAgent]:
    """Run an agent inside the context, whose VMs' pods are below ``pods``: an honest VM, and all that lie."""
    liars = {name: lies for name, (lies, _) in LAUNCHERS_LIES.items()}
    liars |= {name: {"agent": answer} for name, answer in LIARS_ANSWERS.items()}
    names = [HONEST, NEEDY, ABSENT, *LINKS, *liars]
    sockets = {name: pods / f"pod-{name}" / RUNTIME / "virtqemud-sock" for name in names}
    for each in sockets.values():
        each.parent.mkdir(parents=True)
    for name, target in LINKS.items():
        sockets[name].symlink_to(sockets[HONEST] if name == "linked" else target)
    honest = daemons(pods / "honest.json", {str(sockets[HONEST]): {}, str(sockets[NEEDY]): {"statistics": _NEEDS}})
    lying = daemons(pods / "lying.json", {str(sockets[name]): lies for name, lies in liars.items()})
    with running(honest, lying) as started:
        for daemon in started:
            if daemon.stdout is None or daemon.stdout.readline() != "ready\n":
                raise EOFError("a daemon has ended")
        with running(["hack.testbed.hostile.agent_process", str(pods), NEEDY, *names]) as (process,):
            yield RunningAgent(process)
