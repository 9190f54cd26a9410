"""One round for one node: gather, allocate, apply."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from kubeballoon.api.v1alpha1 import NodePressure, NodePressureStatus, NodeState, VirtualMachineReport
from kubeballoon.cluster import paths
from kubeballoon.cluster.announce import Announcer, Reference
from kubeballoon.cluster.client import Cluster, ClusterError, ConflictError, NotFoundError, Object
from kubeballoon.cluster.snapshot import SILENT
from kubeballoon.controller.counters import Counters
from kubeballoon.controller.kinds import Asked, Kind
from kubeballoon.controller.world import Book, World
from kubeballoon.core import processors
from kubeballoon.core.allocate import allocate
from kubeballoon.core.model import Decision, Plan, Reason, State
from kubeballoon.core.wording import human

_log = logging.getLogger(__name__)

_AT_ONCE = 8  # patches under way at one time

AnyPlan = Plan | processors.Plan
AnyDecision = Decision | processors.Decision


@dataclass(slots=True)
class Outcome:
    """What the last round of a node came to.

    Attributes:
        plans: what was decided, by the collection of the policies behind it.
        state: the node's, as of then; None where nothing was decided.
        silent: its agent has not reported lately, so nothing was decided.
        failures: patches the API server refused, as one line each.
        fault: why nothing could be decided or written, in a line; None where all went as it should.
    """

    plans: Mapping[str, AnyPlan] = field(default_factory=dict)
    state: NodeState | None = None
    silent: bool = False
    failures: list[str] = field(default_factory=list)
    fault: str | None = None

    @property
    def result(self) -> str:
        """How it went, in a word."""
        if self.fault is not None:
            return "failed"
        return "silent" if self.silent else "decided"

    @property
    def memory(self) -> Plan | None:
        """What was decided about memory; None where nothing was."""
        plan = self.plans.get(paths.MEMORY_POLICIES)
        return plan if isinstance(plan, Plan) else None


class Rounds:
    """Runs rounds, and remembers how each node's last one ended."""

    def __init__(
        self,
        cluster: Cluster,
        world: World,
        announcer: Announcer,
        counters: Counters,
        clock: Callable[[], float] = time.monotonic,
        today: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Decide from ``world``, write through ``cluster``.

        ``ended`` is when the last round that decided did; ``moved`` when one last got on, in seconds of ``clock``.
        """
        self._cluster = cluster
        self._world = world
        self._announcer = announcer
        self.counters = counters
        self._clock = clock
        self._today = today
        self.ended: datetime | None = None
        self.moved = clock()
        self._limit = asyncio.Semaphore(_AT_ONCE)
        self.outcomes: dict[str, Outcome] = {}

    async def run(self, name: str) -> None:
        """One round for the node ``name``, counted; one that fails is that node's, and of no other."""
        with self.counters.durations.time():
            try:
                await self._run(name)
            except Exception as error:  # noqa: BLE001 - whatever it is, the other nodes go on
                self._fail(name, f"the round of node {name} failed: {error!r}", error)
        outcome = self.outcomes.get(name)
        if outcome is None:
            return  # the node is gone
        self.counters.ended(outcome.result)
        if outcome.result == "decided":
            self.ended = self._today()

    def _fail(self, name: str, fault: str, error: Exception) -> None:
        """Keep what was decided before, and say once what went wrong."""
        before = self.outcomes.get(name, Outcome())
        if fault != before.fault:
            _log.error("%s", fault, exc_info=error)
        self.outcomes[name] = Outcome(before.plans, before.state, fault=fault)

    async def _run(self, name: str) -> None:
        """One round: a node that is gone is forgotten.

        1. Gather: a snapshot from the agent's report, or nothing where the agent is silent.
        2. Allocate: the core decides.
        3. Apply: patch the VMs whose request changes; tell about transitions.
        """
        pressure = self._world.nodes.get(name)
        status = None if pressure is None else pressure.status
        if pressure is None or status is None:
            self.outcomes.pop(name, None)
            return
        if self._world.silence(name, self._clock()) > SILENT:
            self.outcomes[name] = Outcome(silent=True)
            return
        before = self.outcomes.get(name, Outcome())
        plans = self._decide(name, status)
        outcome = self.outcomes[name] = Outcome(plans, status.state)
        reports = {report.uid: report for report in status.virtual_machines}
        changes = self._changes(reports, plans, before.plans)
        results = await asyncio.gather(*(self._apply(reports[uid], written) for uid, written in changes.items()))
        outcome.failures = [failure for failure in results if failure is not None]
        await self._announce_state(pressure, status, before.state)
        for book in self._world.books:
            path = book.kind.path
            if path in plans:
                await self._announce(pressure, book.kind, reports, before.plans.get(path), plans[path])

    def _decide(self, name: str, status: NodePressureStatus) -> dict[str, AnyPlan]:
        now = self._clock()
        memory = self._world.snapshot(name, status, now)
        plans: dict[str, AnyPlan] = {self._world.memory.kind.path: allocate(memory)}
        cpus = self._world.processor_snapshot(name, status, now)
        if cpus is not None:
            plans[self._world.processors.kind.path] = processors.allocate(cpus)
        return plans

    def _changes(
        self,
        reports: Mapping[str, VirtualMachineReport],
        plans: Mapping[str, AnyPlan],
        before: Mapping[str, AnyPlan],
    ) -> dict[str, list[_Change]]:
        """What is to be written on which VM: what is asked of it, and why when that alone has changed."""
        changes: dict[str, list[_Change]] = {}
        for book in self._world.books:
            plan, last = plans.get(book.kind.path), before.get(book.kind.path)
            grounds = {} if last is None else {decision.vm.uid: _ground(decision) for decision in last.decisions}
            for decision in () if plan is None else plan.decisions:
                uid = decision.vm.uid
                asked = book.asked(reports[uid])
                wanted = _wanted(book, decision) or book.kind.parting(reports[uid], asked)
                explained = wanted.target is None or grounds.get(uid, _ground(decision)) == _ground(decision)
                if wanted != asked or not explained:
                    changes.setdefault(uid, []).append(_Change(book, asked, wanted, decision.message))
        return changes

    async def _apply(self, report: VirtualMachineReport, changes: list[_Change]) -> str | None:
        """Write what changes; the reason why that failed, if it did."""
        try:
            async with self._limit:
                self.moved = self._clock()
                await self._cluster.merge(paths.instance(report.namespace, report.name), _patch(report.uid, changes))
        except (NotFoundError, ConflictError):
            self.counters.patched("gone")
            return None  # deleted, or another VM by that name: the agent's next report says so
        except ClusterError as error:
            self.counters.patched("failed")
            _log.warning("%s", error)
            return str(error)
        self.counters.patched("written")
        for change in changes:
            change.book.record(report.uid, change.before, change.wanted, self._clock())
            target = change.wanted.target
            asked = "withdrawn" if target is None else change.book.kind.said(target)
            _log.info("%s/%s: target %s (%s)", report.namespace, report.name, asked, change.message)
        return None

    async def _announce_state(self, node: NodePressure, status: NodePressureStatus, before: NodeState | None) -> None:
        """An event when a node's state changes; none for the first that is known."""
        state, memory = status.state, status.memory
        if before is None or before is state:
            return
        note = f"from {before} to {state}: {human(memory.available)} of {human(memory.total)} are available"
        warning = State(state).desperate
        await self._announcer.post(_node(node), f"Memory{state}", note, action="Allocate", warning=warning)

    async def _announce(
        self,
        node: NodePressure,
        kind: Kind[Any],
        reports: Mapping[str, VirtualMachineReport],
        before: AnyPlan | None,
        plan: AnyPlan,
    ) -> None:
        """Events on transitions; on a first round no VM is known to have changed, but a shortfall is news."""
        if plan.shortfall and (before is None or not before.shortfall):
            name, shortfall = node.metadata.name, kind.said(plan.shortfall)
            note = f"the guaranteed minimums exceed the capacity of {name} for VMs by {shortfall}"
            await self._announcer.post(_node(node), "Overcommitted", note, action="Allocate", warning=True)
        known = {decision.vm.uid: decision for decision in ([] if before is None else before.decisions)}
        for decision in plan.decisions:
            previous = known.get(decision.vm.uid)
            said = None if previous is None else _transition(kind, previous, decision)
            if said is not None:
                report = reports[decision.vm.uid]
                about = Reference("kubevirt.io/v1", "VirtualMachineInstance", report.name, report.uid, report.namespace)
                reason, warning = said
                self.moved = self._clock()
                await self._announcer.post(about, reason, decision.message, action="Allocate", warning=warning)


def _node(node: NodePressure) -> Reference:
    """The Node itself, as the kubelet refers to it: by its name for a uid."""
    return Reference("v1", "Node", node.metadata.name, node.metadata.name)


@dataclass(frozen=True, slots=True)
class _Change:
    """What is to be written on a VM because of one kind of policy."""

    book: Book[Any]
    before: Asked
    wanted: Asked
    message: str


def _ground(decision: AnyDecision) -> tuple[object, ...]:
    """Of a decision's reason what is worth a write: not its figures."""
    if isinstance(decision, Decision) and decision.reason is not Reason.SATISFIED:
        return decision.reason, decision.state
    return (decision.reason,)


def _wanted(book: Book[Any], decision: AnyDecision) -> Asked | None:
    """What is to be asked of a VM; None: nothing."""
    policy = decision.vm.policy
    if decision.target is None or policy is None:
        return None
    minimum = decision.vm.minimum if isinstance(decision, Decision) else None
    return Asked(decision.target, minimum, policy.name, book.kind.method(book.policies[policy.name]))


def _patch(uid: str, changes: list[_Change]) -> Object:
    """A merge patch of the annotations; the uid makes the API server refuse it for another VM of that name."""
    annotations: dict[str, str | None] = {}
    for change in changes:
        annotations |= change.book.kind.annotations(change.wanted, change.message)
    return {"metadata": {"uid": uid, "annotations": annotations}}


_HELD_BACK = (Reason.RECLAIMED, Reason.AT_MINIMUM)


def _transition(kind: Kind[Any], before: AnyDecision, now: AnyDecision) -> tuple[str, bool] | None:
    """The event a change of reason calls for, as (reason, warning)."""
    taken, returned = kind.events
    if before.reason is now.reason:
        return None
    if now.reason is Reason.UNRESPONSIVE:
        return "Unresponsive", True
    if now.reason in _HELD_BACK and before.reason not in _HELD_BACK and now.target is not None:
        return taken, False
    if now.reason in (Reason.SATISFIED, Reason.NOT_UNDER_PRESSURE) and before.target is not None:
        return returned, False
    return None
