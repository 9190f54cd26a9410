"""One VM's guest_worker: does what goes through the guest's agent or touches processors.

It has a task, a connection and a thread of its own beside the VM's worker: an agent that hangs holds up no memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from kubeballoon.agent.hypervisor.guest_agent import GuestAgent
from kubeballoon.agent.hypervisor.interface import GuestControl, Hypervisor, HypervisorError, VMProcess
from kubeballoon.agent.hypervisor.launchers import find_launcher
from kubeballoon.agent.hypervisor.qemu_process import QemuProcess
from kubeballoon.agent.node.memory import HostError
from kubeballoon.agent.node.processors import HostProcessorReader
from kubeballoon.agent.vm.guest_processors import GuestProcessors, report
from kubeballoon.agent.vm.guest_program import GuestProgram, ProgramHypervisor
from kubeballoon.agent.vm.instance import Instance
from kubeballoon.api.reasons import AgentReason
from kubeballoon.api.v1alpha1 import (
    NodePressureStatus,
    NodeProcessors,
    ProcessorReport,
    VirtualMachineReport,
)
from kubeballoon.vocabulary import ReclaimMethod

_log = logging.getLogger(__name__)

LOOK = 3.0  # seconds between looks at a VM of which something is asked
IDLE = 30.0  # seconds between looks at one of which nothing is
STEP = 0.5  # seconds between looks while something is under way
_WITHOUT = (
    AgentReason.NO_BALLOON,
    AgentReason.GUEST_UNSUPPORTED,
)  # reasons for which a VM has nothing that could reserve memory
_NEWS = 20  # percent by which the node's usage or stall is worth a report
RETRY = (2.0, 5.0, 10.0, 30.0)  # seconds between attempts to reach it, growing


class GuestWorker:
    """Attends to one VM."""

    def __init__(self, instance: Instance, hypervisor: Hypervisor, pods: Path, changed: Callable[[], None]) -> None:
        """Attend to ``instance``, whose pod is below ``pods``; ``changed`` is called when there is news."""
        self.instance = instance
        self._hypervisor = hypervisor
        self._pods = pods
        self._changed = changed
        self._wake = asyncio.Event()
        self._agent = GuestAgent()
        self.process = QemuProcess(instance.domain, instance.pods)
        self.processors = GuestProcessors(self._agent, self.process)
        self.guest_program = GuestProgram(self._agent, self.process, self._wake.set)
        self._take_in()
        self._processors_due = 0.0
        self._failures = 0  # since the VM was last looked at

    def update(self, instance: Instance) -> None:
        """The VM's object changed: look at once if it asks for something else."""
        before, self.instance = self.instance, instance
        self.process.pods = instance.pods
        self._take_in()
        if _asks(before) != _asks(instance):
            self._processors_due = 0.0
            self._wake.set()

    def _take_in(self) -> None:
        self.processors.expect(self.instance.processors)
        # Of a VM that may not be ballooned nothing is taken, and what a program holds there is given back.
        barred = self.instance.ineligibility is not None
        self.guest_program.method = ReclaimMethod.BALLOON if barred else self.instance.method
        self.guest_program.hold = self.instance.hold is not None or self.instance.fault is not None

    async def run(self) -> None:
        """Attend until cancelled.

        Whatever happens is over with the connection: the VM's worker goes on with the reservation that is kept here.
        """
        while True:
            try:
                with contextlib.closing(await self._open()) as channel:
                    self._agent.channel = channel
                    await self._attend(channel)
            except HypervisorError as error:
                self._fail(AgentReason.UNREACHABLE, str(error))
            except Exception as error:  # noqa: BLE001 - one VM must not cost more than itself
                _log.exception("%s: its guest_worker failed", self.instance.domain)
                self._fail(AgentReason.INTERNAL_ERROR, f"its guest_worker failed: {error!r}")
            self._agent.channel = None
            await self._pause(RETRY[min(self._failures, len(RETRY) - 1)])
            self._failures += 1

    async def _open(self) -> GuestControl:
        launcher = find_launcher(self._pods, list(self.instance.pods))
        if launcher is None:
            raise HypervisorError(f"no libvirt socket of its launcher pod under {self._pods}")
        return await self._hypervisor.open(launcher, self.instance.domain)

    async def _attend(self, channel: GuestControl) -> None:
        while True:
            if self.instance.hold is None:
                await self._reserve()
                if time.monotonic() >= self._processors_due:
                    await self._look(channel)
                    asked = self.instance.processors.target is not None or self.processors.returning
                    wait = STEP if self.processors.moving else LOOK if asked else IDLE
                    self._processors_due = time.monotonic() + wait
                    self._failures = 0
            await self._pause(self._rest())

    def _rest(self) -> float:
        """Seconds until there is something to do, if nothing is asked before."""
        if self.instance.hold is not None:
            return IDLE
        processors = max(0.0, self._processors_due - time.monotonic())
        return min(processors, self.guest_program.rest)

    async def _reserve(self) -> None:
        if not self.guest_program.due:
            return
        before = self.guest_program.problem
        await self.guest_program.look()
        if self.guest_program.problem != before:
            self._changed()

    async def _look(self, channel: GuestControl) -> None:
        before = self.processors.view
        await self.processors.look(channel, self.instance.processors)
        now = self.processors.view
        if (now.online, now.problem) != (before.online, before.problem):
            said = "" if now.problem is None else f": {now.problem.message}"
            _log.info("%s: %s processors online%s", self.instance.domain, now.online, said)
        if replace(now, usage=None) != replace(before, usage=None):
            self._changed()

    def _fail(self, reason: AgentReason, message: str) -> None:
        if self.processors.view.problem is None:
            _log.warning("%s: %s", self.instance.domain, message)
        self.processors.fail(reason, message)
        self._changed()

    async def _pause(self, seconds: float) -> None:
        """Wait, but no longer than until the object changes."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        self._wake.clear()


class GuestWorkers:
    """One guest_worker for each VM of the node.

    Attributes:
        processors: the node's, as last measured; None where the kernel does not tell.
    """

    def __init__(self, hypervisor: Hypervisor, pods: Path, changed: Callable[[], None]) -> None:
        """Make guest_workers for VMs whose pods are below ``pods``; ``changed`` is called when one has news."""
        self._hypervisor = hypervisor
        self._pods = pods
        self._changed = changed
        self.processors: NodeProcessors | None = None
        self._meter = HostProcessorReader()
        self._mute = False
        self._known: dict[str, tuple[GuestWorker, asyncio.Task[None]]] = {}

    def match(self, running: Mapping[str, Instance]) -> None:
        """Attend to these VMs, by uid, and to no others."""
        for uid in self._known.keys() - running.keys():
            self._known.pop(uid)[1].cancel()
        for uid, instance in running.items():
            known = self._known.get(uid)
            if known is not None:
                known[0].update(instance)
                continue
            guest_worker = GuestWorker(instance, self._hypervisor, self._pods, self._changed)
            self._known[uid] = guest_worker, asyncio.create_task(guest_worker.run(), name=f"attend {instance.domain}")

    def recall(self, status: NodePressureStatus) -> None:
        """Know what the agent before this one had asked of the VMs."""
        for vm in status.virtual_machines:
            if vm.uid in self._known and vm.processors is not None:
                self._known[vm.uid][0].processors.recall(vm.processors)

    def hypervisor(self, uid: str) -> Hypervisor:
        """What the worker of a VM is to reach it by."""
        return ProgramHypervisor(self._hypervisor, self._known[uid][0].guest_program)

    def process(self, uid: str) -> VMProcess:
        """The process of a VM."""
        return self._known[uid][0].process

    async def close(self) -> None:
        """Attend to none any more."""
        tasks = [task for _, task in self._known.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def measure(self) -> None:
        """Look at the node's processors."""
        try:
            node = self._meter.look()
        except HostError as error:
            _log.log(logging.DEBUG if self._mute else logging.WARNING, "%s", error)
            self._mute, self.processors = True, None
            return
        usage, stall = round(node.pressure.usage), round(node.pressure.stall)
        self.processors = NodeProcessors(count=node.count, usage=usage, stall=stall)

    def complete(self, status: NodePressureStatus) -> NodePressureStatus:
        """The report with what is known here."""
        vms = [self._complete(vm) for vm in status.virtual_machines]
        return status.model_copy(update={"processors": self.processors, "virtual_machines": vms})

    def _complete(self, vm: VirtualMachineReport) -> VirtualMachineReport:
        known = self._known.get(vm.uid)
        if known is None:
            return vm
        guest_worker = known[0]
        return vm.model_copy(
            update={"processors": report(guest_worker.instance, guest_worker.processors), **_method(vm, guest_worker)}
        )


def _asks(instance: Instance) -> tuple[object, ...]:
    return instance.processors, instance.hold, instance.fault, instance.ineligibility, instance.method


def _method(vm: VirtualMachineReport, guest_worker: GuestWorker) -> dict[str, object]:
    """What reserves a VM's memory, and how the node gets it back."""
    said: dict[str, object] = {"requested_method": guest_worker.instance.method}
    if guest_worker.guest_program.engaged:
        held = guest_worker.guest_program.held
        return {
            **said,
            "method": ReclaimMethod.GUEST_AGENT,
            "claimed": None if held is None else held.within(vm.size).held,
            "freed_by": guest_worker.guest_program.freed_by,
        }
    if vm.reason in _WITHOUT:
        return {**said, "eligible": False}
    return {**said, "method": None if vm.need is None else ReclaimMethod.BALLOON}


def is_news(before: NodePressureStatus, now: NodePressureStatus) -> bool:
    """Whether the controller could decide otherwise about processors because of what changed."""
    if is_node_news(before.processors, now.processors):
        return True
    known = {vm.uid: vm.processors for vm in before.virtual_machines}
    return any(_still(known.get(vm.uid)) != _still(vm.processors) for vm in now.virtual_machines)


def is_node_news(before: NodeProcessors | None, now: NodeProcessors | None) -> bool:
    """Whether it could because of the node's own."""
    if before is None or now is None:
        return before is not now
    return any(abs(getattr(before, name) - getattr(now, name)) >= _NEWS for name in ("usage", "stall"))


def _still(seen: ProcessorReport | None) -> ProcessorReport | None:
    """What is reported of processors, without what never stands still."""
    return None if seen is None else seen.model_copy(update={"usage": None, "message": None})
