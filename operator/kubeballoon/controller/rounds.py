"""One round for one node: gather, allocate, apply."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from kubeballoon.api.v1alpha1 import NodePressure, NodePressureStatus, VirtualMachineReport
from kubeballoon.cluster import paths
from kubeballoon.cluster.client import ApiClient, ApiError, ConflictError, NotFoundError, Object
from kubeballoon.cluster.events import EventRecorder, ObjectReference
from kubeballoon.controller.cluster_state import ClusterState
from kubeballoon.controller.counters import Counters
from kubeballoon.controller.policy_store import PolicyStore
from kubeballoon.core.decision import DecisionReason
from kubeballoon.core.memory.allocation import allocate_memory
from kubeballoon.core.memory.model import MemoryDecision, MemoryPlan
from kubeballoon.core.processors.allocation import allocate_processors
from kubeballoon.core.processors.model import ProcessorDecision, ProcessorPlan
from kubeballoon.core.wording import human
from kubeballoon.governance.policy_types import MEMORY, PROCESSORS, PolicyType
from kubeballoon.governance.reports import SILENT_AFTER
from kubeballoon.governance.requests import VMRequest
from kubeballoon.vocabulary import NodeState

_log = logging.getLogger(__name__)

_AT_ONCE = 8  # patches under way at one time

AnyPlan = MemoryPlan | ProcessorPlan
AnyDecision = MemoryDecision | ProcessorDecision


@dataclass(slots=True)
class RoundResult:
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
    def memory(self) -> MemoryPlan | None:
        """What was decided about memory; None where nothing was."""
        plan = self.plans.get(MEMORY.model.plural)
        return plan if isinstance(plan, MemoryPlan) else None


class RoundRunner:
    """Runs rounds, and remembers how each node's last one ended."""

    def __init__(
        self,
        cluster: ApiClient,
        state: ClusterState,
        announcer: EventRecorder,
        counters: Counters,
        clock: Callable[[], float] = time.monotonic,
        today: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Decide from ``state``, write through ``cluster``.

        ``ended`` is when the last round that decided did; ``moved`` when one last got on, in seconds of ``clock``.
        """
        self._cluster = cluster
        self._state = state
        self._announcer = announcer
        self.counters = counters
        self._clock = clock
        self._today = today
        self.ended: datetime | None = None
        self.moved = clock()
        self._limit = asyncio.Semaphore(_AT_ONCE)
        self.results: dict[str, RoundResult] = {}

    async def run(self, name: str) -> None:
        """One round for the node ``name``, counted; one that fails is that node's, and of no other."""
        with self.counters.durations.time():
            try:
                await self._run(name)
            except Exception as error:  # noqa: BLE001 - whatever it is, the other nodes go on
                self._fail(name, f"the round of node {name} failed: {error!r}", error)
        result = self.results.get(name)
        if result is None:
            return  # the node is gone
        self.counters.ended(result.result)
        if result.result == "decided":
            self.ended = self._today()

    def _fail(self, name: str, fault: str, error: Exception) -> None:
        """Keep what was decided before, and say once what went wrong."""
        before = self.results.get(name, RoundResult())
        if fault != before.fault:
            _log.error("%s", fault, exc_info=error)
        self.results[name] = RoundResult(before.plans, before.state, fault=fault)

    async def _run(self, name: str) -> None:
        """One round: a node that is gone is forgotten.

        1. Gather: a snapshot from the agent's report, or nothing where the agent is silent.
        2. Allocate: the core decides.
        3. Apply: patch the VMs whose request changes; tell about transitions.
        """
        pressure = self._state.nodes.get(name)
        status = None if pressure is None else pressure.status
        if pressure is None or status is None:
            self.results.pop(name, None)
            return
        if self._state.silence(name, self._clock()) > SILENT_AFTER:
            self.results[name] = RoundResult(silent=True)
            return
        before = self.results.get(name, RoundResult())
        plans = self._decide(name, status)
        result = self.results[name] = RoundResult(plans, status.state)
        reports = {report.uid: report for report in status.virtual_machines}
        changes = self._changes(reports, plans, before.plans)
        results = await asyncio.gather(*(self._apply(reports[uid], written) for uid, written in changes.items()))
        result.failures = [failure for failure in results if failure is not None]
        await self._announce_state(pressure, status, before.state)
        for store in self._state.stores:
            plural = store.policy_type.model.plural
            if plural in plans:
                await self._announce(pressure, store.policy_type, reports, before.plans.get(plural), plans[plural])

    def _decide(self, name: str, status: NodePressureStatus) -> dict[str, AnyPlan]:
        now = self._clock()
        memory = self._state.snapshot(name, status, now)
        plans: dict[str, AnyPlan] = {MEMORY.model.plural: allocate_memory(memory)}
        cpus = self._state.processor_snapshot(name, status, now)
        if cpus is not None:
            plans[PROCESSORS.model.plural] = allocate_processors(cpus)
        return plans

    def _changes(
        self,
        reports: Mapping[str, VirtualMachineReport],
        plans: Mapping[str, AnyPlan],
        before: Mapping[str, AnyPlan],
    ) -> dict[str, list[_Change]]:
        """What is to be written on which VM: what is asked of it, and why when that alone has changed."""
        changes: dict[str, list[_Change]] = {}
        for store in self._state.stores:
            plural = store.policy_type.model.plural
            plan, last = plans.get(plural), before.get(plural)
            grounds = {} if last is None else {decision.vm.uid: _ground(decision) for decision in last.decisions}
            for decision in () if plan is None else plan.decisions:
                uid = decision.vm.uid
                asked = store.current_request(reports[uid])
                wanted = _wanted(store, decision) or store.policy_type.final_request(reports[uid], asked)
                explained = wanted.target is None or grounds.get(uid, _ground(decision)) == _ground(decision)
                if wanted != asked or not explained:
                    changes.setdefault(uid, []).append(_Change(store, asked, wanted, decision.message))
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
        except ApiError as error:
            self.counters.patched("failed")
            _log.warning("%s", error)
            return str(error)
        self.counters.patched("written")
        for change in changes:
            change.store.record(report.uid, change.before, change.wanted, self._clock())
            target = change.wanted.target
            asked = "withdrawn" if target is None else change.store.policy_type.amount_text(target)
            _log.info("%s/%s: target %s (%s)", report.namespace, report.name, asked, change.message)
        return None

    async def _announce_state(self, node: NodePressure, status: NodePressureStatus, before: NodeState | None) -> None:
        """An event when a node's state changes; none for the first that is known."""
        state, memory = status.state, status.memory
        if before is None or before is state:
            return
        note = f"from {before} to {state}: {human(memory.available)} of {human(memory.total)} are available"
        warning = NodeState(state).only_minimums_hold
        await self._announcer.post(_node(node), f"Memory{state}", note, action="Allocate", warning=warning)

    async def _announce(
        self,
        node: NodePressure,
        policy_type: PolicyType[Any, Any],
        reports: Mapping[str, VirtualMachineReport],
        before: AnyPlan | None,
        plan: AnyPlan,
    ) -> None:
        """Events on transitions; on a first round no VM is known to have changed, but a shortfall is news."""
        if plan.shortfall and (before is None or not before.shortfall):
            name, shortfall = node.metadata.name, policy_type.amount_text(plan.shortfall)
            note = f"the guaranteed minimums exceed the capacity of {name} for VMs by {shortfall}"
            await self._announcer.post(_node(node), "Shortfall", note, action="Allocate", warning=True)
        known = {decision.vm.uid: decision for decision in ([] if before is None else before.decisions)}
        for decision in plan.decisions:
            previous = known.get(decision.vm.uid)
            said = None if previous is None else _transition(policy_type, previous, decision)
            if said is not None:
                report = reports[decision.vm.uid]
                about = ObjectReference(
                    "kubevirt.io/v1", "VirtualMachineInstance", report.name, report.uid, report.namespace
                )
                reason, warning = said
                self.moved = self._clock()
                await self._announcer.post(about, reason, decision.message, action="Allocate", warning=warning)


def _node(node: NodePressure) -> ObjectReference:
    """The Node itself, as the kubelet refers to it: by its name for a uid."""
    return ObjectReference("v1", "Node", node.metadata.name, node.metadata.name)


@dataclass(frozen=True, slots=True)
class _Change:
    """What is to be written on a VM because of one kind of policy."""

    store: PolicyStore[Any, Any]
    before: VMRequest
    wanted: VMRequest
    message: str


def _ground(decision: AnyDecision) -> tuple[object, ...]:
    """Of a decision's reason what is worth a write: not its figures."""
    if isinstance(decision, MemoryDecision) and decision.reason is not DecisionReason.SATISFIED:
        return decision.reason, decision.state
    return (decision.reason,)


def _wanted(store: PolicyStore[Any, Any], decision: AnyDecision) -> VMRequest | None:
    """What is to be asked of a VM; None: nothing."""
    policy = decision.vm.policy
    if decision.target is None or policy is None:
        return None
    minimum = decision.vm.minimum if isinstance(decision, MemoryDecision) else None
    return VMRequest(
        decision.target, minimum, policy.name, store.policy_type.method(store.policies[policy.name].resource)
    )


def _patch(uid: str, changes: list[_Change]) -> Object:
    """A merge patch of the annotations; the uid makes the API server refuse it for another VM of that name."""
    annotations: dict[str, str | None] = {}
    for change in changes:
        annotations |= change.store.policy_type.annotations(change.wanted, change.message)
    return {"metadata": {"uid": uid, "annotations": annotations}}


_HELD_BACK = (DecisionReason.RECLAIMED, DecisionReason.AT_MINIMUM)


def _transition(policy_type: PolicyType[Any, Any], before: AnyDecision, now: AnyDecision) -> tuple[str, bool] | None:
    """The event a change of reason calls for, as (reason, warning)."""
    reclaimed, returned = policy_type.reclaimed_event, policy_type.returned_event
    if before.reason is now.reason:
        return None
    if now.reason is DecisionReason.UNRESPONSIVE:
        return "Unresponsive", True
    if now.reason in _HELD_BACK and before.reason not in _HELD_BACK and now.target is not None:
        return reclaimed, False
    if now.reason in (DecisionReason.SATISFIED, DecisionReason.NOT_UNDER_PRESSURE) and before.target is not None:
        return returned, False
    return None
