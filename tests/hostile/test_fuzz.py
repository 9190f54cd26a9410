"""Whatever stands in a domain's XML, a guest agent's answer or a VM's object: it is read, or refused in the one way.

`make test` tries a hundred of each, `make fuzz` ten thousand.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from hack.testbed.lab import GuestSpec, vmi_object
from hack.testbed.lab.fakes import FakeGuestControl, FakeHypervisor
from kubeballoon.agent.hypervisor.domain_xml import LARGEST_KIB, read_domain
from kubeballoon.agent.hypervisor.errors import GarbledError, GuestAgentError
from kubeballoon.agent.hypervisor.qemu_guest_agent import LONGEST_FILE, GuestAgent
from kubeballoon.agent.node.memory import HostMemory
from kubeballoon.agent.report import NodeObservation, compose
from kubeballoon.agent.settings import AgentSettings
from kubeballoon.agent.vm.guest_program_client import parse_status
from kubeballoon.agent.vm.guest_worker import GuestWorker
from kubeballoon.agent.vm.memory_view import MemoryView
from kubeballoon.agent.vm.memory_worker import MemoryWorker
from kubeballoon.agent.vm.vmi import Instance, UnreadableVM, read_running
from kubeballoon.agent.vm_problem import Problem
from kubeballoon.api.reasons import AgentReason
from kubeballoon.api.v1alpha1 import NodePressureStatus
from kubeballoon.core.memory.node_state import MemoryStall, NodeLimits, StateThresholds
from kubeballoon.vocabulary import NodeState

# Any text at all is the rarest that gets anywhere; so most texts are numbers, or nearly numbers.
NUMBERS = st.one_of(
    st.integers(-(1 << 70), 1 << 70).map(str),
    st.sampled_from(
        ["1e30", "1e400", "-0", "0x10", "9" * 5000, "١٢", "1.5", "NaN", "Infinity", "8Ei", "1e9Ki", "-1m", ""]
    ),
)

TEXTS = st.one_of(NUMBERS, st.text(max_size=20))

HEAD = """<domain type='kvm'><name>vm</name><memory unit='KiB'>4194304</memory><vcpus>
<vcpu id='0' enabled='yes' hotpluggable='no'/><vcpu id='1' enabled='yes' hotpluggable='yes'/></vcpus><devices>"""
DEVICES = """<memory model='virtio-mem'><target><size unit='KiB'>3145728</size><current unit='KiB'>524288</current>
</target></memory><memballoon model='virtio'><stats period='5'/></memballoon></devices></domain>"""
DOMAIN = HEAD + DEVICES
PIECES = [
    "<!DOCTYPE d [<!ENTITY a 'b'>]>",
    "&a;",
    "&lt;",
    "<a>",
    "</domain>",
    "<!--",
    "]]>",
    "<![CDATA[",
    "\0",
    "<?x?>",
    "<memory>",
]


@st.composite
def spoiled(draw: st.DrawFn, text: str) -> str:
    """Cut pieces out of a text, and put others in."""
    for _ in range(draw(st.integers(1, 5))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(len(text), start + 40)))
        text = text[:start] + draw(st.one_of(TEXTS, st.sampled_from(PIECES))) + text[end:]
    return text


def escaped(text: str) -> str:
    return "".join(f"&#{ord(each)};" if each in "<>&'" else each for each in text)


def tag(name: str, attributes: dict[str, str], contents: str) -> str:
    written = "".join(f" {key}='{escaped(value)}'" for key, value in attributes.items())
    return f"<{name}{written}>{contents}</{name}>"


@st.composite
def elements(draw: st.DrawFn) -> str:
    """Write XML of the elements and attributes that are read, in any order and with any contents."""
    names = st.sampled_from(["domain", "memory", "devices", "memballoon", "target", "size", "current", "vcpus", "vcpu"])
    keys = st.sampled_from(["type", "model", "id", "enabled", "hotpluggable"])
    values = st.one_of(st.sampled_from(["kvm", "qemu", "none", "virtio-mem", "yes"]), TEXTS)

    def element(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        attributes = st.dictionaries(keys, values, max_size=3)
        return st.builds(tag, names, attributes, st.lists(inner, max_size=4).map("".join))

    return f"<domain>{draw(st.recursive(TEXTS.map(escaped), element, max_leaves=12))}</domain>"


@given(st.one_of(st.text(), spoiled(DOMAIN), elements()))
def test_any_xml_of_a_domain_is_read_within_bounds_or_refused(xml: str) -> None:
    with contextlib.suppress(GarbledError):
        domain = read_domain(xml)
        for figure in (domain.most, domain.boot, domain.plugged):
            assert 0 <= figure <= LARGEST_KIB
        assert all(name[4:].isdecimal() and len(name) < 10 for name in domain.removable)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(1 << 70), 1 << 70), st.floats(), TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=12,
)
FIELDS = ["logical-id", "online", "can-offline", "buf-b64", "pid", "exited", "exitcode", "out-data", "id", "return"]
ANSWERS = st.recursive(
    JSON,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(FIELDS), inner, max_size=6)),
    max_leaves=12,
)
VCPUS = (
    '{"return":[{"logical-id":0,"online":true,"can-offline":false},{"logical-id":1,"online":true,"can-offline":true}]}'
)


class Answering(FakeGuestControl):
    """A guest agent that answers the same to every command, be it JSON or not."""

    text: str = ""

    async def command(self, name: str, arguments: Any, read: Any) -> Any:  # noqa: ARG002 - whatever is asked
        """Have the text read."""
        return read(self.text)


async def ask_everything(text: str) -> None:
    """Give every command this answer; each is asked of a guest agent of its own, for a failure is remembered."""
    for ask in ("processors", "system", "read_file", "write_file", "run", "set_processors"):
        guest_agent, control = GuestAgent(), Answering()
        control.text, guest_agent.control = text, control
        call: dict[str, tuple[Any, ...]] = {"read_file": ("/x",), "write_file": ("/x", b""), "run": ("/x",)}
        options = {"online": True} if ask == "set_processors" else {}
        arguments = ([1],) if ask == "set_processors" else call.get(ask, ())
        with contextlib.suppress(GuestAgentError):
            found = await getattr(guest_agent, ask)(*arguments, **options)
            if ask == "processors":
                assert all(0 <= each.index < 1 << 16 for each in found)


@given(
    st.one_of(
        st.text(),
        ANSWERS.map(lambda value: json.dumps({"return": value})),
        ANSWERS.map(json.dumps),
        spoiled(VCPUS),
        st.integers(1, 40000).map(lambda depth: "[" * depth),
    )
)
def test_any_answer_of_a_guest_agent_is_read_within_bounds_or_refused(text: str) -> None:
    asyncio.run(ask_everything(text))


STATUS = '{"number": 1, "requested": 0, "locked": 0, "available": 5, "spare": 5}'


@given(st.one_of(st.binary(max_size=LONGEST_FILE), spoiled(STATUS).map(lambda text: text.encode(errors="replace"))))
def test_any_status_of_a_guest_program_is_read_within_bounds_or_refused(text: bytes) -> None:
    status = parse_status(text)
    assert status is None or all(
        0 <= figure < 1 << 63 for figure in (status.number, status.locked, status.available, status.spare)
    )


ANNOTATIONS = ["memory-target", "memory-min", "policy", "reason", "memory-method", "processor-target", "exclude"]


@st.composite
def objects(draw: st.DrawFn) -> dict[str, Any]:
    """Change a VM's object at some places; the API server vouches for the form of its metadata alone."""
    keys = draw(st.dictionaries(st.sampled_from(ANNOTATIONS), TEXTS, max_size=4))
    annotations = {f"kubeballoon.io/{key}": value for key, value in keys.items()}
    vmi = copy.deepcopy(vmi_object(GuestSpec(name="vm", vcpus=4), "pod", "here", annotations=annotations))
    vmi["metadata"]["uid"] = "vm"
    vmi["metadata"]["labels"] = draw(st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3))
    vmi["status"]["memory"] = {"guestRequested": "1Gi", "memoryOverhead": draw(TEXTS)}
    for _ in range(draw(st.integers(0, 4))):
        places = list(places_below(vmi["spec"])) + list(places_below(vmi["status"]))
        parent, key = draw(st.sampled_from(places))
        if key not in ("nodeName", "phase"):  # else it would not run here, and not be read any further
            parent[key] = draw(st.one_of(TEXTS, JSON))
    return vmi


def places_below(value: Any) -> list[tuple[Any, Any]]:
    """List all places of a JSON value, each by what it is in and its key or index."""
    found: list[tuple[Any, Any]] = []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += [(value, key), *places_below(inner)]
    return found


def reported(*vms: Instance, unreadable: Iterable[UnreadableVM]) -> NodePressureStatus:
    """Compose the report of a node with these VMs, which cannot be reached, and those that cannot be read."""
    workers = []
    for vm in vms:
        worker = MemoryWorker(vm, FakeHypervisor({}), AgentSettings(Path("/pods"), 60.0, 1), lambda: None)
        worker.view = MemoryView(problem=Problem.of(AgentReason.UNREACHABLE))
        workers.append((worker, GuestWorker(vm, FakeHypervisor({}), Path("/pods"), lambda: None)))
    node = NodeObservation(
        HostMemory(1 << 34, 1 << 33, MemoryStall()), NodeState.AMPLE, NodeLimits(StateThresholds(4, 3, 2, 1), reserve=4)
    )
    return compose(node, workers, [], datetime.now(UTC), unreadable=unreadable)


@given(objects())
def test_any_object_of_a_vm_is_read_and_reported_or_named(vmi: dict[str, Any]) -> None:
    running, unreadable = read_running([vmi], "here", 100, {})
    wire = json.dumps(reported(*running.values(), unreadable=unreadable.values()).to_wire(), allow_nan=False)
    assert len(wire) < 20000
    (report,) = NodePressureStatus.model_validate_json(wire).virtual_machines
    assert 0 <= report.size < 1 << 63
    if unreadable:
        assert (report.reason, report.eligible, report.size) == (AgentReason.BAD_REPORT, False, 0)
        return
    assert report.processors is not None
    assert 0 <= report.processors.size < 1 << 31
