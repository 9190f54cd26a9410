"""This module does for one VM what goes through its guest agent, or concerns its processors.

Each VM has a guest worker with a task, a connection and a queue of calls beside the memory worker, so that a guest
agent that hangs delays no memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from kubeballoon.agent.event_wait import Wait, wait_for
from kubeballoon.agent.foreign_text import one_line
from kubeballoon.agent.hypervisor import launcher_sockets
from kubeballoon.agent.hypervisor.errors import HypervisorError
from kubeballoon.agent.hypervisor.protocols import GuestControl, Hypervisor
from kubeballoon.agent.hypervisor.qemu_guest_agent import GuestAgent
from kubeballoon.agent.hypervisor.qemu_process import QemuProcess
from kubeballoon.agent.report_changes import processor_view_changed
from kubeballoon.agent.vm.guest_processors import GuestProcessors
from kubeballoon.agent.vm.guest_program_client import GuestProgram, ProgramHypervisor
from kubeballoon.agent.vm.vmi import Instance
from kubeballoon.agent.wait_times import DEFAULT_TIMING, Timing
from kubeballoon.api.reasons import AgentReason
from kubeballoon.api.v1alpha1 import NodePressureStatus
from kubeballoon.vocabulary import ReclaimMethod

_log = logging.getLogger(__name__)


class GuestWorker:
    """A GuestWorker does for one VM what goes through its guest agent, or concerns its processors.

    Attributes:
        instance: the VM as its object says.
        governed: whether a policy may have the VM's memory reclaimed.
        process: the VM's QEMU process.
        processors: the VM's processors.
        guest_program: the program in the VM's guest that locks memory.
    """

    def __init__(
        self,
        instance: Instance,
        hypervisor: Hypervisor,
        pods: Path,
        changed: Callable[[], None],
        timing: Timing = DEFAULT_TIMING,
        wait: Wait = wait_for,
    ) -> None:
        """Work for ``instance``, whose pod is below ``pods``; call ``changed`` when there is something to report."""
        self.instance = instance
        self.governed = False
        self._hypervisor = hypervisor
        self._pods = pods
        self._changed = changed
        self._timing = timing.guest
        self._wait = wait
        self._wake = asyncio.Event()
        self._guest_agent = GuestAgent(timing=timing.guest_agent)
        self.process = QemuProcess(instance.domain, instance.pods)
        self.processors = GuestProcessors(self._guest_agent, self.process, timing=timing.processors)
        self.guest_program = GuestProgram(self._guest_agent, self.process, self._wake.set, timing=timing.program)
        # Without a sign that a program is used the guest agent is not asked, for the first command taints the domain.
        self.guest_program.suspected = instance.method is ReclaimMethod.GUEST_AGENT
        self.guest_program.past_unknown = instance.migrated_here
        self._instruct_parts()
        self._processors_due = 0.0  # on the monotonic clock, seconds
        self._retry = timing.guest.reconnect

    def memory_hypervisor(self) -> Hypervisor:
        """Make the hypervisor by which the VM's memory worker is to reach the VM."""
        return ProgramHypervisor(self._hypervisor, self.guest_program)

    def update(self, instance: Instance, *, governed: bool) -> None:
        """Take over a new state of the VM's object and policy; act at once if something else is requested."""
        before = self.governed, _instructions(self.instance)
        self.instance, self.governed = instance, governed
        self.process.pods = instance.pods
        self._instruct_parts()
        if before != (governed, _instructions(instance)):
            self._processors_due = 0.0
            self._wake.set()

    def _instruct_parts(self) -> None:
        self.processors.expect(self.instance.processors)
        # Nothing is reclaimed from a VM that must not be ballooned, and what a program has locked there is freed.
        ineligible = self.instance.ineligibility is not None
        self.guest_program.method = ReclaimMethod.BALLOON if ineligible else self.instance.method
        self.guest_program.governed = self.governed
        self.guest_program.hold = self.instance.hold is not None or self.instance.fault is not None

    async def run(self) -> None:
        """Work until cancelled.

        An error ends the connection and nothing else: the memory worker goes on with the guest program kept here.
        """
        while True:
            try:
                with contextlib.closing(await self._open()) as control:
                    self._guest_agent.control = control
                    await self._work(control)
            except HypervisorError as error:
                self._fail(error.reason, str(error))
            except Exception as error:  # noqa: BLE001 - an error that concerns one VM must end no other's worker
                _log.exception("%s: its guest worker failed", self.instance.domain, extra=self.instance.log_fields)
                self._fail(AgentReason.INTERNAL_ERROR, f"its guest worker failed: {one_line(repr(error))}")
            self._guest_agent.control = None
            self._retry = self._retry.failed(time.monotonic())
            await self._wait(self._wake, self._retry.pause)

    async def _open(self) -> GuestControl:
        launcher = await asyncio.to_thread(launcher_sockets.require_launcher, self._pods, self.instance.pods)
        return await self._hypervisor.connect_guest(launcher, self.instance.domain)

    async def _work(self, control: GuestControl) -> None:
        while True:
            if self.instance.hold is None:
                await self._poll_program()
                if time.monotonic() >= self._processors_due:
                    await self._advance_processors(control)
                    self._processors_due = time.monotonic() + self._processors_pause()
                    self._retry = self._retry.succeeded()
            await self._wait(self._wake, self._until_due())  # an instruction that changes ends the pause

    def _processors_pause(self) -> float:
        """Decide after how many seconds to look at the processors again."""
        if self.processors.moving:
            return self._timing.moving_poll
        requested = self.instance.processors.target is not None or self.processors.returning
        return self._timing.poll if requested else self._timing.idle_poll

    def _until_due(self) -> float:
        """Compute the seconds until there is something to do, unless something else is requested before."""
        if self.instance.hold is not None:
            return self._timing.idle_poll
        return min(max(0.0, self._processors_due - time.monotonic()), self.guest_program.until_due)

    async def _poll_program(self) -> None:
        if not self.guest_program.due:
            return
        before = self.guest_program.problem
        await self.guest_program.poll()
        if self.guest_program.problem != before:
            self._changed()

    async def _advance_processors(self, control: GuestControl) -> None:
        before = self.processors.view
        await self.processors.advance(control, self.instance.processors)
        now = self.processors.view
        if (now.online, now.problem) != (before.online, before.problem):
            problem = "" if now.problem is None else f": {now.problem.message}"
            fields = self.instance.log_fields
            _log.info("%s: %s processors online%s", self.instance.domain, now.online, problem, extra=fields)
        if processor_view_changed(before, now):
            self._changed()

    def _fail(self, reason: AgentReason, message: str) -> None:
        if self.processors.view.problem is None:
            _log.warning("%s: %s", self.instance.domain, message, extra=self.instance.log_fields)
        self.processors.fail(reason, message)
        self._changed()


class GuestWorkers:
    """GuestWorkers keep one guest worker for each VM of the node."""

    def __init__(self, new_worker: Callable[[Instance], GuestWorker]) -> None:
        """Begin without workers; ``new_worker`` makes one for a VM."""
        self._new_worker = new_worker
        self._workers: dict[str, tuple[GuestWorker, asyncio.Task[None]]] = {}  # by the VM's uid

    def match(self, running: Mapping[str, Instance], governed: Collection[str] = ()) -> None:
        """Have workers for these VMs, by uid, and for no others; policies may have memory of ``governed`` reclaimed."""
        for uid in self._workers.keys() - running.keys():
            self._workers.pop(uid)[1].cancel()
        for uid, instance in running.items():
            worker = self.find(uid)
            if worker is None:
                worker = self._new_worker(instance)
                task = asyncio.create_task(worker.run(), name=f"guest worker {instance.domain}")
                self._workers[uid] = worker, task
            worker.update(instance, governed=uid in governed)

    def restore(self, status: NodePressureStatus) -> None:
        """Take over from an earlier agent's report what it had requested of the VMs' processors and programs."""
        for vm in status.virtual_machines:
            worker = self.find(vm.uid)
            if worker is None:
                continue
            if vm.method is ReclaimMethod.GUEST_AGENT:
                worker.guest_program.suspected = True
            if vm.processors is not None:
                worker.processors.restore(vm.processors)

    def find(self, uid: str) -> GuestWorker | None:
        """Find the worker of a VM; None if there is none."""
        known = self._workers.get(uid)
        return None if known is None else known[0]

    async def close(self) -> None:
        """End all workers."""
        tasks = [task for _, task in self._workers.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _instructions(instance: Instance) -> tuple[object, ...]:
    """Collect everything that decides what a guest worker does."""
    return instance.processors, instance.hold, instance.fault, instance.ineligibility, instance.method
