"""This module runs rounds: a round decides what the VMs of one node may use, and writes what has changed."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from kubeballoon.api.conditions import ConditionReason, ConditionType
from kubeballoon.api.reasons import AgentReason
from kubeballoon.api.v1alpha1 import NodePressure, NodePressureStatus, VirtualMachineReport
from kubeballoon.cluster.client import ApiClient, ApiError
from kubeballoon.cluster.events import EventRecorder, ObjectReference
from kubeballoon.cluster.vmi_annotations import CONCURRENT_PATCHES, VMIAnnotator, VMIReference, WriteResult
from kubeballoon.controller.cluster_state import ClusterState
from kubeballoon.controller.event_allowance import EventAllowance
from kubeballoon.controller.metric_counters import ControllerCounters, PatchResult, RoundEnd, patch_result
from kubeballoon.controller.misreported_vms import MisreportedVMs
from kubeballoon.controller.policy_store import PolicyStore
from kubeballoon.controller.round_queue import URGENT
from kubeballoon.core.decision_reason import DecisionReason
from kubeballoon.core.formatting import human, listed
from kubeballoon.core.memory.allocation import allocate_memory
from kubeballoon.core.memory.model import MemoryDecision, MemoryPlan
from kubeballoon.core.migration_arrival import limit_to_arrivals
from kubeballoon.core.processors.allocation import allocate_processors
from kubeballoon.core.processors.model import ProcessorDecision, ProcessorPlan
from kubeballoon.governance.offences import find_offence
from kubeballoon.governance.policy_types import MEMORY, PROCESSORS, PolicyType
from kubeballoon.governance.report_bounds import SILENT_AFTER
from kubeballoon.governance.targets_in_force import VMRequest
from kubeballoon.vocabulary import NodeState

_log = logging.getLogger(__name__)

AnyPlan = MemoryPlan | ProcessorPlan
AnyDecision = MemoryDecision | ProcessorDecision


@dataclass(slots=True)
class RoundResult:
    """A RoundResult says how the last round of a node ended.

    Attributes:
        plans: what was decided, by the plural name of the policy type.
        state: the node's state at the time; None if nothing was decided.
        silent: whether nothing was decided because the node's agent has not reported lately.
        failures: one line for each patch that failed.
        unwritten: the uids of VMs on which something was to be written and was not.
        misreported: NAMESPACE/NAME of VMs that the node's agent goes on reporting although the node does not run them.
        offences: the reasons for which VMs are named to administrators, by the VMs' uids.
        fault: why nothing could be decided or written, in one line; None if that was possible.
        rests: whether the next round would decide the same, however late it comes, unless something changes.
        ended_at: when the round ended, seconds of the runner's clock.
    """

    plans: Mapping[str, AnyPlan] = field(default_factory=dict)
    state: NodeState | None = None
    silent: bool = False
    failures: list[str] = field(default_factory=list)
    unwritten: set[str] = field(default_factory=set)
    misreported: list[str] = field(default_factory=list)
    offences: Mapping[str, AgentReason] = field(default_factory=dict)
    fault: str | None = None
    rests: bool = False
    ended_at: float = -math.inf

    @property
    def decided(self) -> bool:
        """Whether something was decided."""
        return self.fault is None and not self.silent

    @property
    def end(self) -> RoundEnd:
        """How the last round of the node ended."""
        if self.fault is not None:
            return RoundEnd.FAILED
        return RoundEnd.DECIDED if self.decided else RoundEnd.SILENT

    @property
    def memory(self) -> MemoryPlan | None:
        """What was decided about memory; None if nothing was decided."""
        plan = self.plans.get(MEMORY.model.plural)
        return plan if isinstance(plan, MemoryPlan) else None


@dataclass(frozen=True, slots=True)
class _RequestChange:
    """A _RequestChange is what to write on a VM because of policies of one type.

    Attributes:
        store: the store of those policies.
        before: what is requested of the VM now.
        after: what is to be requested; the same as before where only the message has changed.
        message: why, for people.
    """

    store: PolicyStore[Any, Any]
    before: VMRequest
    after: VMRequest
    message: str

    def lowered_by(self, report: VirtualMachineReport) -> int:
        """Return by how many bytes the memory that a VM may use falls; 0 if it does not."""
        if self.store.policy_type is not MEMORY or self.after.target is None:
            return 0
        before = report.size if self.before.target is None else self.before.target
        return max(0, before - self.after.target)

    @property
    def raised_by(self) -> int:
        """By how many bytes the memory that a VM may use rises beyond its minimum; 0 if it does not."""
        if self.store.policy_type is not MEMORY or self.after.target is None or self.before.target is None:
            return 0
        return max(0, self.after.target - max(self.before.target, self.after.minimum or 0))


class RoundRunner:
    """A RoundRunner runs rounds, and keeps the result of each node's last round.

    Attributes:
        recorder: posts the rounds' events.
        results: the result of each node's last round, by the node's name.
        last_decided_at: when the last round that decided ended; None before the first.
        progress_at: when a round last wrote something, seconds of ``clock``; the liveness probe goes by it.
        may_write: whether this controller may write now; it is asked before each write.
        is_urgent: whether a node waits for another round because it is short of memory.
    """

    def __init__(
        self,
        cluster: ApiClient,
        state: ClusterState,
        recorder: EventRecorder,
        counters: ControllerCounters,
        clock: Callable[[], float] = time.monotonic,
        utc_now: Callable[[], datetime] = lambda: datetime.now(UTC),
        may_write: Callable[[], bool] = lambda: True,
    ) -> None:
        """Decide from ``state``, write through ``cluster``, and post events by ``recorder``.

        Args:
            cluster: the API server.
            state: what the controller knows.
            recorder: posts events.
            counters: counts rounds and patches.
            clock: monotonic seconds.
            utc_now: the time of day.
            may_write: whether this controller may write now.
        """
        self.may_write = may_write
        self.is_urgent: Callable[[str], bool] = lambda _: False
        self._state = state
        self._annotator = VMIAnnotator(cluster)
        self._misreported = MisreportedVMs()
        self._event_allowances: dict[str, EventAllowance] = {}  # by the node's name
        self.recorder = recorder
        self._counters = counters
        self._clock = clock
        self._utc_now = utc_now
        self.last_decided_at: datetime | None = None
        self.progress_at = clock()
        self.results: dict[str, RoundResult] = {}

    async def run(self, name: str) -> None:
        """Run one round for the node ``name``; whatever fails in it is that node's fault and stops no other node."""
        with self._counters.time_round():
            try:
                await self._run(name)
            except Exception as error:  # noqa: BLE001 - one node's fault must not stop the others
                self._record_fault(name, f"the round of node {name} failed: {error!r}", error)
        result = self.results.get(name)
        if result is None:
            return  # the node is gone
        result.ended_at = self._clock()
        self._counters.rounds.count(result.end)
        if result.decided:
            self.last_decided_at = self._utc_now()

    def _record_fault(self, name: str, fault: str, error: Exception) -> None:
        """Log a node's fault unless it is known, and keep what was last decided."""
        before = self.results.get(name, RoundResult())
        if fault != before.fault:
            _log.error("%s", fault, exc_info=error, extra={"node": name})
        self.results[name] = RoundResult(
            before.plans, before.state, unwritten=before.unwritten, offences=before.offences, fault=fault
        )

    async def _run(self, name: str) -> None:
        """Run the steps of a round; a node that is gone is forgotten.

        1. Gather: take a snapshot of the node from its agent's report, unless the agent is silent.
        2. Decide: the core allocates memory and processors.
        3. Apply: patch the VMs whose request changes, and post events about what has changed.
        """
        pressure = self._state.nodes.get(name)
        status = None if pressure is None else pressure.status
        if pressure is None or status is None:
            self.results.pop(name, None)
            self._misreported.keep(name, (), self._clock())
            if pressure is None:
                self._event_allowances.pop(name, None)
            return
        if self._state.seconds_since_heard(name, self._clock()) > SILENT_AFTER:
            self.results[name] = RoundResult(silent=True)
            return
        before = self.results.get(name, RoundResult())
        plans = self._decide(name, status)
        result = self.results[name] = RoundResult(plans, status.state)
        reports = {report.uid: report for report in status.virtual_machines}
        self._misreported.keep(name, reports, self._clock())
        changes = self._changes(name, reports, plans, before)
        result.unwritten = set(changes)
        result.failures = await self._apply_all(name, reports, changes, result)
        result.rests = (
            not changes and status.state is NodeState.AMPLE and all(self._rests(plan) for plan in plans.values())
        )
        now = self._clock()
        reported_at = now - self._state.seconds_since_heard(name, now)
        result.misreported = self._misreported.persistent(name, status.virtual_machines, reported_at, now)
        await self._post_misreported_event(pressure, before.misreported, result.misreported)
        result.offences = await self._post_offence_events(name, status.virtual_machines, before.offences)
        await self._post_state_event(pressure, status, before.state)
        for store in self._state.stores:
            plural = store.policy_type.model.plural
            if plural in plans:
                await self._post_plan_events(
                    pressure, store.policy_type, reports, before.plans.get(plural), plans[plural]
                )

    def _rests(self, plan: AnyPlan) -> bool:
        """Whether nothing of a plan is due at a later time."""
        if plan.shortfall:
            return False
        if isinstance(plan, ProcessorPlan):  # cool-downs end
            return all(each.target in (None, each.vm.size) for each in plan.decisions)
        passing = any(each.reason in _PASSING_REASONS and not each.vm.observed for each in plan.decisions)
        return not passing and not any(_cools_down(each, self._state.cool_down) for each in plan.decisions)

    def _decide(self, name: str, status: NodePressureStatus) -> dict[str, AnyPlan]:
        now = self._clock()
        memory = self._state.snapshot(name, status, now)
        room = self._state.room_needed.get(name, 0)
        if room:
            memory = replace(memory, other=memory.other + room)  # as if the VMs that are to come were there
        plans: dict[str, AnyPlan] = {
            MEMORY.model.plural: limit_to_arrivals(allocate_memory(memory), self._state.arrivals)
        }
        processors = self._state.processor_snapshot(name, status, now)
        if processors is not None:
            plans[PROCESSORS.model.plural] = allocate_processors(processors)
        return plans

    def _changes(
        self,
        node: str,
        reports: Mapping[str, VirtualMachineReport],
        plans: Mapping[str, AnyPlan],
        result_before: RoundResult,
    ) -> dict[str, list[_RequestChange]]:
        """Find what to write on VMs, by uid: a request that differs from the present one, or a new reason for it.

        VMs that the node was found not to run are left out for a while.
        """
        changes: dict[str, list[_RequestChange]] = {}
        for store in self._state.stores:
            plural = store.policy_type.model.plural
            plan, plan_before = plans.get(plural), result_before.plans.get(plural)
            decisions_before = () if plan_before is None else plan_before.decisions
            keys = {decision.vm.uid: _explanation_key(decision) for decision in decisions_before}
            for decision in () if plan is None else plan.decisions:
                uid = decision.vm.uid
                before = store.written.current_request(node, reports[uid])
                after = _request(store, decision) or store.policy_type.final_request(reports[uid], before)
                key = _explanation_key(decision)
                # A controller that has just started does not know the reason on the VM, and takes it to be right.
                known = keys.get(uid, key) == key and uid not in result_before.unwritten
                explained = after.target is None or known
                if after != before or not explained:
                    changes.setdefault(uid, []).append(_RequestChange(store, before, after, decision.message))
        now = self._clock()
        return {uid: of_vm for uid, of_vm in changes.items() if self._misreported.may_be_tried(node, uid, now)}

    async def _apply_all(
        self,
        node: str,
        reports: Mapping[str, VirtualMachineReport],
        changes: Mapping[str, list[_RequestChange]],
        result: RoundResult,
    ) -> list[str]:
        """Write changes on a node's VMs; return one line for each that failed.

        Targets are lowered first, for others may rise by as much in the same round. Where one cannot be lowered, others
        wait for the next round: together the targets would exceed the node's capacity.

        No more of them wait for their turn than can be written at once: another node's write never waits behind all
        that one node's report names.
        """
        turns = asyncio.Semaphore(CONCURRENT_PATCHES)
        urgent = self._state.severity(node) >= URGENT

        async def apply(uid: str, of_vm: list[_RequestChange]) -> str | None:
            async with turns:
                return await self._apply(node, reports[uid], of_vm, result, urgent=urgent)

        async def apply_these(uids: Iterable[str]) -> list[str]:
            failures = await asyncio.gather(*(apply(uid, changes[uid]) for uid in uids))
            return [failure for failure in failures if failure is not None]

        lowered = {uid: sum(change.lowered_by(reports[uid]) for change in changes[uid]) for uid in changes}
        failures = await apply_these(uid for uid in changes if lowered[uid])
        missing = sum(lowered[uid] for uid in changes if uid in result.unwritten)
        by_need = sorted(changes, key=lambda uid: reports[uid].troubled)
        wait = set(_choose_to_wait({uid: changes[uid] for uid in by_need}, missing))
        return failures + await apply_these(uid for uid in changes if not lowered[uid] and uid not in wait)

    async def _apply(
        self,
        node: str,
        report: VirtualMachineReport,
        changes: list[_RequestChange],
        result: RoundResult,
        *,
        urgent: bool,
    ) -> str | None:
        """Write changes on a VM if its node runs it; if that fails, return why in one line.

        Nothing is written once this controller may not write any more, or the node has misreported too many VMs, or
        once the node has run short of memory: then its next round decides anew, and does not wait for what a calm round
        has left to write.
        """

        def wanted() -> bool:
            believed = self._misreported.may_be_tried(node, report.uid, self._clock())
            return believed and self.may_write() and (urgent or not self.is_urgent(node))

        annotations: dict[str, str | None] = {}
        for change in changes:
            annotations |= change.store.policy_type.annotations(change.after, change.message)
        try:
            vmi = VMIReference(report.namespace, report.name, report.uid, node)
            written = await self._annotator.write(vmi, annotations, wanted, urgent=urgent)
        except ApiError as error:
            self._counters.patches.count(PatchResult.FAILED)
            _log.warning("%s", error)
            return str(error)
        finally:
            self.progress_at = self._clock()
        if (counted := patch_result(written)) is None:
            return None
        self._counters.patches.count(counted)
        result.unwritten.discard(report.uid)
        if written is WriteResult.WRITTEN:
            self._remember(node, report, changes)
        else:
            self._misreported.add(node, report, self._clock())  # an honest agent's next report leaves the VM out
        return None

    def _remember(self, node: str, report: VirtualMachineReport, changes: list[_RequestChange]) -> None:
        """Remember, and log, changes that have been written on a VM, which its node runs."""
        self._misreported.remove(node, report.uid)
        for change in changes:
            change.store.written.record(node, report.uid, change.before, change.after, self._clock())
            target = change.after.target
            text = "withdrawn" if target is None else change.store.policy_type.amount_text(target)
            fields = {"vm": f"{report.namespace}/{report.name}", "node": node, "policy": change.after.policy}
            _log.info("%s: target %s (%s)", fields["vm"], text, change.message, extra=fields)

    async def _post_misreported_event(self, node: NodePressure, before: list[str], now: list[str]) -> None:
        """Post an event if a node's agent goes on reporting other VMs than before which the node does not run."""
        if now and now != before:
            note = f"its agent reports VMs that the node does not run, and nothing is written on them: {listed(now)}"
            await self.recorder.post(
                _node_reference(node), ConditionReason.MISREPORTED, note, action="Allocate", warning=True
            )

    async def _post_offence_events(
        self, node: str, reports: Sequence[VirtualMachineReport], before: Mapping[str, AgentReason]
    ) -> Mapping[str, AgentReason]:
        """Post an event about each VM that has a reason now for which it is named; return these reasons, by uid."""
        found = {report.uid: (report, offence) for report in reports if (offence := find_offence(report)) is not None}
        for uid, (report, offence) in found.items():
            if before.get(uid) is not offence.reason and self._may_post(node, report):
                about = _vmi_reference(report)
                await self.recorder.post(about, offence.reason, offence.message, action="Allocate", warning=True)
        return {uid: offence.reason for uid, (_, offence) in found.items()}

    async def _post_state_event(self, node: NodePressure, status: NodePressureStatus, before: NodeState | None) -> None:
        """Post an event if a node's state has changed; the first state that is known is no change."""
        state, memory = status.state, status.memory
        if before is None or before is state:
            return
        note = f"from {before} to {state}: {human(memory.available)} of {human(memory.total)} are available"
        warning = NodeState(state).only_minimums_hold
        await self.recorder.post(_node_reference(node), f"Memory{state}", note, action="Allocate", warning=warning)

    async def _post_plan_events(
        self,
        node: NodePressure,
        policy_type: PolicyType[Any, Any],
        reports: Mapping[str, VirtualMachineReport],
        before: AnyPlan | None,
        plan: AnyPlan,
    ) -> None:
        """Post events about what a plan changes for a node and its VMs.

        In a first round (``before`` is None) no VM is known to have changed, but a shortfall is posted all the same.
        """
        if plan.shortfall and (before is None or not before.shortfall):
            name, shortfall = node.metadata.name, policy_type.amount_text(plan.shortfall)
            note = f"the guaranteed minimums exceed the capacity of {name} for VMs by {shortfall}"
            await self.recorder.post(
                _node_reference(node), ConditionType.SHORTFALL, note, action="Allocate", warning=True
            )
        decisions_before = {decision.vm.uid: decision for decision in ([] if before is None else before.decisions)}
        for decision in plan.decisions:
            decision_before, report = decisions_before.get(decision.vm.uid), reports[decision.vm.uid]
            event = (
                None if decision_before is None else _event_for_change(policy_type, report, decision_before, decision)
            )
            if event is not None and self._may_post(node.metadata.name, report):
                reason, warning = event
                about = _vmi_reference(report)
                await self.recorder.post(about, reason, decision.message, action="Allocate", warning=warning)

    def _may_post(self, node: str, report: VirtualMachineReport) -> bool:
        """Whether an event about a VM may be posted because a node's agent reports the VM."""
        now = self._clock()
        if not self._misreported.may_be_tried(node, report.uid, now):
            return False
        allowance = self._event_allowances.setdefault(node, EventAllowance())
        refused_before = allowance.refused
        if allowance.take(now):
            return True
        if not refused_before:
            _log.warning("%s: too many events about its VMs, some are left out", node, extra={"node": node})
        return False


def _choose_to_wait(changes: Mapping[str, list[_RequestChange]], missing: int) -> Iterator[str]:
    """Choose the first VMs, by uid, whose targets are to rise by ``missing`` bytes or more together."""
    for uid, of_vm in changes.items():
        raised = sum(change.raised_by for change in of_vm)
        if missing > 0 and raised:
            missing -= raised
            yield uid


def _node_reference(node: NodePressure) -> ObjectReference:
    """Refer to a Node as the kubelet's events do, with its name for a uid, so that kubectl shows them together."""
    return ObjectReference("v1", "Node", node.metadata.name, node.metadata.name)


def _vmi_reference(report: VirtualMachineReport) -> ObjectReference:
    return ObjectReference("kubevirt.io/v1", "VirtualMachineInstance", report.name, report.uid, report.namespace)


def _explanation_key(decision: AnyDecision) -> tuple[object, ...]:
    """Pick the part of a decision's reason whose change alone is worth a patch.

    Amounts are left out, or nearly every report would cause a patch.
    """
    if isinstance(decision, MemoryDecision) and decision.reason is not DecisionReason.SATISFIED:
        return decision.reason, decision.state
    return (decision.reason,)


def _request(store: PolicyStore[Any, Any], decision: AnyDecision) -> VMRequest | None:
    """Turn a decision into the request to write; None if nothing is to be requested."""
    policy = decision.vm.policy
    if decision.target is None or policy is None:
        return None
    minimum = decision.vm.minimum if isinstance(decision, MemoryDecision) else None
    method = store.policy_type.method(store.policies[policy.name].resource)
    return VMRequest(decision.target, minimum, policy.name, method)


_PASSING_REASONS = (DecisionReason.WAITING, DecisionReason.WITHHOLDING, DecisionReason.STEADY)


def _cools_down(decision: MemoryDecision, cool_down: float) -> bool:
    """Whether a target may only wait for the end of its cool-down to become what the VM is entitled to."""
    change = decision.vm.last_change
    waits = decision.target not in (None, decision.entitlement)
    return waits and change is not None and change.age < cool_down


_RECLAIMED_REASONS = (DecisionReason.RECLAIMED, DecisionReason.AT_MINIMUM)


def _event_for_change(
    policy_type: PolicyType[Any, Any], report: VirtualMachineReport, before: AnyDecision, after: AnyDecision
) -> tuple[str, bool] | None:
    """Find the event to post when a VM's reason changes, as (reason, warning); None if the change is no news."""
    if before.reason is after.reason:
        return None
    if after.reason is DecisionReason.UNRESPONSIVE:
        return None if policy_type.responsive(report) else (DecisionReason.UNRESPONSIVE, True)
    if after.reason is DecisionReason.WITHHOLDING:
        return ConditionReason.MEMORY_WITHHELD, True
    if after.reason in _RECLAIMED_REASONS and before.reason not in _RECLAIMED_REASONS and after.target is not None:
        return policy_type.reclaimed_event, False
    if after.reason in (DecisionReason.SATISFIED, DecisionReason.NOT_UNDER_PRESSURE) and before.target is not None:
        return policy_type.returned_event, False
    return None
