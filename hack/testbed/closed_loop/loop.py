"""A node of model guests, with its agent and the controller, in steps of a clock of its own."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine, Generator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kubeballoon.agent import emergency, report_changes
from kubeballoon.agent.hypervisor.errors import HypervisorError
from kubeballoon.agent.hypervisor.launcher_sockets import Launcher
from kubeballoon.agent.hypervisor.protocols import GuestControl, MemoryControl
from kubeballoon.agent.node.memory import HostMemory
from kubeballoon.agent.report import NodeObservation, compose
from kubeballoon.agent.settings import AgentSettings, NodeSettings
from kubeballoon.agent.vm.memory_worker import MemoryWorker
from kubeballoon.agent.vm.policy_backing import KnownPolicies
from kubeballoon.agent.vm.vmi import Instance
from kubeballoon.agent.wait_times import DEFAULT_TIMING
from kubeballoon.api.v1alpha1 import MemoryPolicy, NodePressureStatus, VirtualMachineReport
from kubeballoon.controller.wait_times import DEFAULT_TIMING as CONTROLLER_TIMING
from kubeballoon.controller.written_requests import WrittenRequests
from kubeballoon.core.decision_reason import DecisionReason
from kubeballoon.core.memory.allocation import allocate_memory
from kubeballoon.core.memory.model import MemoryDecision, MemoryPlan
from kubeballoon.core.memory.node_state import MemoryStall, NodeTerms, next_state, node_limits
from kubeballoon.core.units import MIB
from kubeballoon.governance.core_inputs import memory_node
from kubeballoon.governance.loaded_policy import LoadedMemoryPolicy, load_memory_policy
from kubeballoon.governance.policy_types import MEMORY
from kubeballoon.governance.targets_in_force import VMRequest
from kubeballoon.vocabulary import NodeState

from .model_guest import EPOCH, OVERHEAD, Amount, ModelGuest, constant

EVICTION_THRESHOLD = 100 * MIB
"""Bytes of free memory below which the kubelet kills pods."""

_DEMAND_WINDOW, _STATISTICS_PERIOD, _MARGIN = 300.0, 10, 64 * MIB  # what agents have by default


def memory_policy(name: str, *, reclaim: dict[str, Any] | None = None, **memory: Any) -> LoadedMemoryPolicy:
    """Make a policy as its API has it: ``memory_policy("gold", min="25%", shares=4000, reclaim={"when": "…"})``."""
    spec = {"selector": {}, "memory": memory, "reclaim": reclaim or {}}
    return load_memory_policy(MemoryPolicy.model_validate({"metadata": {"name": name, "uid": name}, "spec": spec}))


@dataclass(frozen=True)
class _Pause:
    """A _Pause is what a memory worker waits for: an event, or the end of some seconds."""

    event: asyncio.Event
    seconds: float

    def __await__(self) -> Generator[_Pause, None, bool]:
        yield self
        was_set = self.event.is_set()
        self.event.clear()
        return was_set


async def _pause(event: asyncio.Event, seconds: float) -> bool:
    return await _Pause(event, seconds)


@dataclass
class _WorkerTask:
    """A _WorkerTask runs an agent's memory worker in the loop's time.

    Attributes:
        pause: what the worker waits for.
        until: when the wait ends at the latest, seconds.
    """

    worker: MemoryWorker
    guest: ModelGuest
    coroutine: Coroutine[_Pause, None, None]  # of the worker
    pause: _Pause | None = None
    until: float = 0.0

    def due(self, now: float) -> float:
        """Return when the worker goes on, seconds: ``now`` if what it waits for has come."""
        return now if self.pause is None or self.pause.event.is_set() else self.until

    def run(self, now: float) -> None:
        """Let the worker go on."""
        self.pause = self.coroutine.send(None)
        self.until = now + self.pause.seconds


class _Unreachable:
    """A hypervisor without VMs: workers are handed their connections."""

    async def connect_memory(self, launcher: Launcher, domain: str) -> MemoryControl:
        """Raise HypervisorError: model guests are sampled directly."""
        raise HypervisorError(f"{launcher.pod} {domain}")

    async def connect_guest(self, launcher: Launcher, domain: str) -> GuestControl:
        """Raise HypervisorError: model guests are sampled directly."""
        raise HypervisorError(f"{launcher.pod} {domain}")

    def forget(self, pod: str) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class _Process:
    """A _Process is the QEMU of a model guest."""

    guest: ModelGuest

    def resident(self) -> int | None:
        """Return what the process holds of the node's memory, bytes."""
        return int(self.guest.resident) + OVERHEAD

    resident_if_found = resident


@dataclass
class ClosedLoop:
    """A ClosedLoop is one node: model guests, the agent's code that reads and moves them, and the core's decisions.

    What an agent and the controller do is done by their own code: memory workers, emergency targets, the report and
    what makes it news, the translation for the core, the memory of what was written, and the allocation. The loop only
    passes on what goes through the API server, at once.

    Attributes:
        total: the node's memory, bytes.
        guests: the guests.
        other: memory that others use, bytes over time.
        noise: the share by which that varies at random from step to step.
        seed: of all that is drawn at random.
        period: seconds between two steps. Workers look at their VMs in between, as often as they want.
    """

    total: int
    guests: list[ModelGuest]
    other: Amount = field(default_factory=lambda: constant(0.0))
    noise: float = 0.0
    seed: int = 1
    period: float = 0.5

    now: float = 0.0
    """Seconds since the loop began."""
    state: NodeState = NodeState.AMPLE
    state_changes: list[tuple[float, NodeState]] = field(default_factory=list)
    """When the node's state changed, and to what."""
    available: int = 0
    """What the node has free, bytes; below zero where its guests have used more than it has."""
    lowest_available: float = float("inf")
    plan: MemoryPlan = field(default_factory=lambda: MemoryPlan("node", 0))
    """What the controller decided last."""
    writes: list[tuple[float, str]] = field(default_factory=list)
    """When a request was written on a VM, and on which."""
    longest_waits: dict[str, float] = field(default_factory=dict)
    """The longest that a grant to a VM ever waited for memory, seconds, by the name of each VM that ever waited."""

    def __post_init__(self) -> None:
        """Start the workers of VMs when they start."""
        self._draw = random.Random(self.seed)  # noqa: S311 - not for secrets
        self._node_settings = NodeSettings(EVICTION_THRESHOLD, _MARGIN)
        self._settings = AgentSettings(
            Path("/nowhere"), _DEMAND_WINDOW, _STATISTICS_PERIOD, wait=_pause, wall_clock=self._clock
        )
        self._tasks: dict[str, _WorkerTask] = {}
        self._memory = HostMemory(self.total, self.total, MemoryStall())
        self._written = WrittenRequests(MEMORY.reported_request)
        self._report: NodePressureStatus | None = None
        self._reported_at = self._checked_at = float("-inf")
        self._news = True
        self._round_due = 0.0
        self._waiting_since: dict[str, float] = {}

    def run(self, until: float) -> ClosedLoop:
        """Let time pass until ``until`` seconds after the beginning."""
        while self.now < until:
            self.step()
        return self

    def step(self) -> None:
        """Let one period pass: workers move balloons, the agent guards its node and reports, the controller decides."""
        for guest in self.guests:
            if guest.starts_at <= self.now and guest.name not in self._tasks:
                self._start(guest)
        start, end = self.now, self.now + self.period
        for task in self._tasks.values():
            self.now = start
            while (due := max(self.now, task.due(self.now))) < end:
                task.guest.advance(due)
                self.now = due
                task.run(due)
            task.guest.advance(end)
        self.now = end
        self._guard()
        self._report_news()
        if self.now >= self._round_due:
            self._decide()

    def decision(self, name: str) -> MemoryDecision:
        """Return the last decision about a VM."""
        return next(decision for decision in self.plan.decisions if decision.vm.uid == name)

    def guest(self, name: str) -> ModelGuest:
        """Return a guest by its name."""
        return next(guest for guest in self.guests if guest.name == name)

    def changes_of_state(self, since: float = 0.0) -> int:
        """Count how often the node's state changed since a time, in seconds."""
        return sum(moment >= since for moment, _ in self.state_changes)

    def _clock(self) -> float:
        return EPOCH + self.now

    def _start(self, guest: ModelGuest) -> None:
        """Start the worker of a VM that has started."""
        instance = Instance(guest.name, guest.namespace, guest.name, {}, (), guest.size, OVERHEAD)
        worker = MemoryWorker(
            instance, _Unreachable(), self._settings, self._on_news, clock=self._clock, process=_Process(guest)
        )
        # The worker's own ``run`` looks for a libvirt socket first, and would find none.
        self._tasks[guest.name] = _WorkerTask(worker, guest, worker._follow(guest))  # noqa: SLF001
        self._write(guest.name, VMRequest())

    def _on_news(self) -> None:
        self._news = True

    def _guard(self) -> None:
        """Observe the node, and help where that cannot wait for the controller, as the agent's guard loop does."""
        other = self.other(self.now) * (1 + self._draw.uniform(-self.noise, self.noise))
        held = sum(task.guest.resident + OVERHEAD for task in self._tasks.values())
        self.available = int(self.total - other - held)
        self.lowest_available = min(self.lowest_available, self.available)
        self._memory = HostMemory(self.total, max(0, self.available), MemoryStall())
        limits = node_limits(NodeTerms(), self._node_settings.facts(self._memory))
        before, self.state = (
            self.state,
            next_state(self.state, self._memory.available, limits.thresholds, MemoryStall(), limits.stall),
        )
        if self.state is not before:
            self.state_changes.append((self.now, self.state))
            self._news = True
        workers = [task.worker for task in self._tasks.values()]
        if emergency.may_be_needed(self.state, workers) and emergency.set_emergency_targets(
            "node", self.compose(), workers
        ):
            self._news = True

    def compose(self) -> NodePressureStatus:
        """Compose the agent's report as of now."""
        node = NodeObservation(
            self._memory, self.state, node_limits(NodeTerms(), self._node_settings.facts(self._memory))
        )
        conditions = () if self._report is None else self._report.conditions
        workers = [(task.worker, None) for task in self._tasks.values()]
        return compose(node, workers, conditions, datetime.fromtimestamp(self._clock(), UTC))

    def _report_news(self) -> None:
        """Report what is news, as the agent's report loop does; the controller then decides at once."""
        timing = DEFAULT_TIMING.node
        if not self._news and self.now < self._checked_at + timing.check_interval:
            return
        news, self._news, self._checked_at = self._news, False, self.now
        due = self.now >= self._reported_at + timing.refresh
        if not (news or due or report_changes.node_changed(self._report, self._memory, None)):
            return
        status = self.compose()
        change = report_changes.report_news(self._report, status)
        if not (due or change):
            return
        floors = {report_changes.News.DRIFT: timing.drift_floor, report_changes.News.MOVED: timing.moved_floor}
        if self.now < self._reported_at + floors.get(change, 0.0):
            self._news = True
            return
        self._report, self._reported_at = status, self.now
        for report in status.virtual_machines:
            self._written.reconcile("node", report, self.now)
        self._round_due = self.now

    def _decide(self) -> None:
        """Run a round, as the controller does."""
        self._round_due = self.now + CONTROLLER_TIMING.resync
        if self._report is None:
            return
        reports = {report.uid: report for report in self._report.virtual_machines}
        written = self._written.last_requests("node", reports.values(), self.now)
        self.plan = allocate_memory(memory_node("node", self._report, self._governing, written))
        for decision in self.plan.decisions:
            uid, policy = decision.vm.uid, decision.vm.policy
            before = self._written.current_request("node", reports[uid])
            after = VMRequest()
            if decision.target is not None and policy is not None:
                after = VMRequest(decision.target, decision.vm.minimum, policy.name)
            if after != before:
                self._written.record("node", uid, before, after, self.now)
                self.writes.append((self.now, uid))
                self._write(uid, after)
            self._count_wait(decision)

    def _governing(self, report: VirtualMachineReport) -> LoadedMemoryPolicy | None:
        return self._tasks[report.uid].guest.policy

    def _write(self, uid: str, request: VMRequest) -> None:
        """Let the agent see a request on a VM."""
        worker, policy = self._tasks[uid].worker, self._tasks[uid].guest.policy
        instance = replace(worker.instance, target=request.target, minimum=request.minimum, policy=request.policy)
        policies = KnownPolicies(() if policy is None else (policy,), complete=True)
        worker.update(instance, policies.backing(instance, {}))

    def _count_wait(self, decision: MemoryDecision) -> None:
        uid = decision.vm.uid
        if decision.reason is not DecisionReason.WAITING:
            self._waiting_since.pop(uid, None)
            return
        waited = self.now - self._waiting_since.setdefault(uid, self.now)
        self.longest_waits[uid] = max(self.longest_waits.get(uid, 0.0), waited)
