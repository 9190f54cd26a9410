"""One round for one node: gather, allocate, apply."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from kubeballoon.api import names
from kubeballoon.api.quantity import format_quantity
from kubeballoon.api.v1alpha1 import NodePressure, NodePressureStatus, VirtualMachineReport
from kubeballoon.cluster import paths
from kubeballoon.cluster.announce import Announcer, Reference
from kubeballoon.cluster.client import Cluster, ClusterError, ConflictError, NotFoundError, Object
from kubeballoon.cluster.snapshot import SILENT
from kubeballoon.controller.counters import Counters
from kubeballoon.controller.world import Asked, World
from kubeballoon.core.allocate import allocate
from kubeballoon.core.model import Decision, Plan, Reason
from kubeballoon.core.wording import human

_log = logging.getLogger(__name__)

_AT_ONCE = 8  # patches under way at one time


@dataclass(slots=True)
class Outcome:
    """What the last round of a node came to.

    Attributes:
        silent: its agent has not reported lately, so nothing was decided.
        failures: patches the API server refused, as one line each.
    """

    plan: Plan | None = None
    silent: bool = False
    failures: list[str] = field(default_factory=list)


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
        """Decide from ``world``, write through ``cluster``; ``ended`` is when the last round did."""
        self._cluster = cluster
        self._world = world
        self._announcer = announcer
        self._counters = counters
        self._clock = clock
        self._today = today
        self.ended: datetime | None = None
        self._limit = asyncio.Semaphore(_AT_ONCE)
        self.outcomes: dict[str, Outcome] = {}

    async def run(self, name: str) -> None:
        """One round for the node ``name``, counted."""
        with self._counters.durations.time():
            await self._run(name)
        self._counters.rounds.inc()
        self.ended = self._today()

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
        if self._is_silent(status):
            self.outcomes[name] = Outcome(silent=True)
            return
        before = self.outcomes.get(name, Outcome())
        plan = allocate(self._world.snapshot(name, status, self._clock()))
        outcome = self.outcomes[name] = Outcome(plan)
        reports = {report.uid: report for report in status.virtual_machines}
        results = await asyncio.gather(
            *(self._apply(reports[decision.vm.uid], decision) for decision in plan.decisions)
        )
        outcome.failures = [failure for failure in results if failure is not None]
        await self._announce(pressure, reports, before.plan, plan)

    def _is_silent(self, status: NodePressureStatus) -> bool:
        return (self._today() - status.observed_at).total_seconds() > SILENT

    async def _apply(self, report: VirtualMachineReport, decision: Decision) -> str | None:
        """Write what changes; the reason why that failed, if it did."""
        before, wanted = self._world.asked(report), _wanted(decision)
        if wanted == before:
            return None
        try:
            async with self._limit:
                await self._cluster.merge(
                    paths.instance(report.namespace, report.name), _patch(report.uid, wanted, decision.message)
                )
        except (NotFoundError, ConflictError):
            self._counters.patched("gone")
            return None  # deleted, or another VM by that name: the agent's next report says so
        except ClusterError as error:
            self._counters.patched("failed")
            _log.warning("%s", error)
            return str(error)
        self._counters.patched("written")
        self._world.record(report.uid, before, wanted, self._clock())
        asked = "withdrawn" if wanted.target is None else human(wanted.target)
        _log.info("%s/%s: target %s (%s)", report.namespace, report.name, asked, decision.message)
        return None

    async def _announce(
        self, node: NodePressure, reports: dict[str, VirtualMachineReport], before: Plan | None, plan: Plan
    ) -> None:
        """Events on transitions; none on the first round, when nothing is known to have changed."""
        if before is None:
            return
        about_node = Reference("v1", "Node", node.metadata.name, node.metadata.name)
        if plan.shortfall and not before.shortfall:
            note = f"the guaranteed minimums exceed the node's capacity for VMs by {human(plan.shortfall)}"
            await self._announcer.post(about_node, "Overcommitted", note, action="Allocate", warning=True)
        known = {decision.vm.uid: decision for decision in before.decisions}
        for decision in plan.decisions:
            previous = known.get(decision.vm.uid)
            said = None if previous is None else _transition(previous, decision)
            if said is not None:
                report = reports[decision.vm.uid]
                about = Reference("kubevirt.io/v1", "VirtualMachineInstance", report.name, report.uid, report.namespace)
                reason, warning = said
                await self._announcer.post(about, reason, decision.message, action="Allocate", warning=warning)


def _wanted(decision: Decision) -> Asked:
    policy = decision.vm.policy
    if decision.target is None or policy is None:
        return Asked()
    return Asked(decision.target, decision.vm.minimum, policy.name)


def _patch(uid: str, wanted: Asked, message: str) -> Object:
    """A merge patch of the annotations; the uid makes the API server refuse it for another VM of that name."""
    return {
        "metadata": {
            "uid": uid,
            "annotations": {
                names.MEMORY_TARGET: None if wanted.target is None else format_quantity(wanted.target),
                names.MEMORY_MIN: None if wanted.minimum is None else format_quantity(wanted.minimum),
                names.POLICY: wanted.policy,
                names.REASON: None if wanted.target is None else message,
            },
        }
    }


_HELD_BACK = (Reason.RECLAIMED, Reason.AT_MINIMUM)


def _transition(before: Decision, now: Decision) -> tuple[str, bool] | None:
    """The event a change of reason calls for, as (reason, warning)."""
    if before.reason is now.reason:
        return None
    if now.reason is Reason.UNRESPONSIVE:
        return "Unresponsive", True
    if now.reason in _HELD_BACK and before.reason not in _HELD_BACK and now.target is not None:
        return "MemoryReclaimed", False
    if now.reason in (Reason.SATISFIED, Reason.NOT_UNDER_PRESSURE) and before.target is not None:
        return "MemoryReturned", False
    return None
