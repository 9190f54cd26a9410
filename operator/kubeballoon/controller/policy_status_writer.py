"""This module brings policies' statuses up to date, as few writes as that takes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from kubeballoon.api.conditions import ConditionType
from kubeballoon.api.meta import Condition, ConditionStatus
from kubeballoon.api.v1alpha1 import API_VERSION, NodePolicy, NodePolicyStatus, Policy, PolicyStatus
from kubeballoon.cluster import paths
from kubeballoon.cluster.client import ApiClient, ApiError, NotFoundError
from kubeballoon.cluster.events import EventRecorder, ObjectReference
from kubeballoon.controller.cluster_state import ClusterState
from kubeballoon.controller.metric_counters import ControllerCounters, StatusResult
from kubeballoon.controller.node_policy_status import NodeCounts, RemedyAbility, count_nodes, node_policy_status
from kubeballoon.controller.policy_counts import PolicyCounter, PolicyCounts
from kubeballoon.controller.policy_status import is_news, policy_status, unreadable_status
from kubeballoon.controller.policy_store import PolicyCollection, UnreadablePolicy
from kubeballoon.controller.rounds import RoundRunner

_log = logging.getLogger(__name__)
_AnyPolicy = Policy | NodePolicy | UnreadablePolicy


class PolicyStatusWriter:
    """A PolicyStatusWriter writes the policies' statuses that have changed."""

    def __init__(
        self,
        cluster: ApiClient,
        state: ClusterState,
        recorder: EventRecorder,
        rounds: RoundRunner,
        counters: ControllerCounters,
        figures_interval: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Write the statuses of the policies of ``state``.

        Args:
            cluster: the API server.
            state: what the controller knows.
            recorder: posts events about conditions.
            rounds: what was decided.
            counters: counts the writes.
            figures_interval: the least time between two writes of a policy's status of which only figures and words
                differ, seconds.
            clock: monotonic seconds.
        """
        self._cluster = cluster
        self._state = state
        self._recorder = recorder
        self._rounds = rounds
        self._counters = counters
        self._figures_interval = figures_interval
        self._clock = clock
        self._policy_counters = [PolicyCounter(state, store) for store in state.stores]
        self._errors: dict[str, str] = {}  # why a policy's status could not be written, by kind and name
        self._written_at: dict[str, float] = {}  # by kind and name

    async def update(self) -> None:
        """Write the policies' statuses that have changed; other tasks run between any two policies and nodes."""
        for store, counter in zip(self._state.stores, self._policy_counters, strict=True):
            counts_by_policy = await counter.count()
            for name, loaded in list(store.policies.items()):
                counts = counts_by_policy.get(name, PolicyCounts())
                now = datetime.now(UTC)
                status = policy_status(store.policy_type, loaded.resource, counts, self._rounds.results, now)
                await self._update(store, loaded.resource, status)
                await asyncio.sleep(0)
        await self._update_node_policies()
        for policies in self._state.collections:
            for unreadable in list(policies.unreadable.values()):
                await self._update(policies, unreadable, unreadable_status(unreadable, datetime.now(UTC)))

    async def _update_node_policies(self) -> None:
        policies = self._state.node_policies
        counts = count_nodes(self._state)
        for name, loaded in list(policies.policies.items()):
            taints = RemedyAbility(self._state.taints_enabled, self._state.taint_fault)
            migrations = RemedyAbility(self._state.migrations_enabled, self._state.migration_faults.get(name))
            of_policy, now = counts.get(name, NodeCounts()), datetime.now(UTC)
            status = node_policy_status(loaded.resource, of_policy, now, taints, migrations)
            await self._update(policies, loaded.resource, status)

    async def _update(
        self, policies: PolicyCollection[Any], policy: _AnyPolicy, status: PolicyStatus | NodePolicyStatus
    ) -> None:
        if status == policy.status or not self._rounds.may_write():
            return
        subject = f"{policy.kind}/{policy.metadata.name}"
        rested = self._clock() - self._written_at.get(subject, float("-inf")) >= self._figures_interval
        if not rested and not is_news(policy.status, status):
            return
        if await self._write(policies, policy, status):
            self._written_at[subject] = self._clock()
            policies.set_status(policy.metadata.name, policy.metadata.uid, status)
            await self._post_condition_events(policy, status.conditions)

    async def _write(
        self, policies: PolicyCollection[Any], policy: _AnyPolicy, status: PolicyStatus | NodePolicyStatus
    ) -> bool:
        """Write a policy's status; whether it was written. The same error of the same policy is logged once."""
        name, subject = policy.metadata.name, f"{policy.kind}/{policy.metadata.name}"
        body = {
            "apiVersion": API_VERSION,
            "kind": policy.kind,
            "metadata": {"name": name},
            "status": status.to_wire(),
        }
        try:
            await self._cluster.apply(paths.policy_status(policies.path, name), body)
        except NotFoundError:
            self._counters.statuses.count(StatusResult.GONE)
            return False
        except ApiError as error:
            self._counters.statuses.count(StatusResult.FAILED)
            if self._errors.get(subject) != str(error):
                _log.warning("%s", error)
            self._errors[subject] = str(error)
            return False
        self._counters.statuses.count(StatusResult.WRITTEN)
        self._errors.pop(subject, None)
        return True

    async def _post_condition_events(self, policy: _AnyPolicy, conditions: list[Condition]) -> None:
        """Post an event for each condition whose status has changed; a condition that is new has not changed."""
        before = {condition.type: condition.status for condition in policy.status.conditions} if policy.status else {}
        about = ObjectReference(API_VERSION, policy.kind, policy.metadata.name, policy.metadata.uid)
        for condition in conditions:
            if before.get(condition.type) not in (None, condition.status):
                warning = ConditionType(condition.type).good_when_true != (condition.status is ConditionStatus.TRUE)
                await self._recorder.post(about, condition.reason, condition.message, action="Report", warning=warning)
