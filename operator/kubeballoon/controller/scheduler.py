"""This module schedules rounds: soon after something has changed, and every few seconds in any case."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from datetime import UTC, datetime
from typing import Any

from kubeballoon.api.conditions import ConditionType
from kubeballoon.api.meta import Condition
from kubeballoon.api.v1alpha1 import API_VERSION, Policy, PolicyStatus
from kubeballoon.cluster import paths
from kubeballoon.cluster.client import ApiClient, ApiError, NotFoundError, Object
from kubeballoon.cluster.events import EventRecorder, ObjectReference
from kubeballoon.controller.cluster_state import ClusterState
from kubeballoon.controller.metric_counters import ControllerCounters
from kubeballoon.controller.policy_status import PolicyCounts, count_policies, policy_status, unreadable_status
from kubeballoon.controller.policy_store import PolicyStore, UnreadablePolicy
from kubeballoon.controller.rounds import RoundRunner
from kubeballoon.controller.wait_times import DEFAULT_TIMING, ControllerTiming
from kubeballoon.controller.watch_progress import WatchProgress

_log = logging.getLogger(__name__)


class Scheduler:
    """A Scheduler is the controller's one loop: handlers enqueue nodes, and it runs their rounds.

    After the rounds it brings the policies' statuses up to date.

    Attributes:
        watches: whether kopf delivers what the API server has.
    """

    def __init__(
        self,
        cluster: ApiClient,
        state: ClusterState,
        recorder: EventRecorder,
        rounds: RoundRunner,
        counters: ControllerCounters,
        clock: Callable[[], float] = time.monotonic,
        timing: ControllerTiming = DEFAULT_TIMING,
    ) -> None:
        """Schedule ``rounds`` for the nodes of ``state``; ``clock`` gives monotonic seconds."""
        self.watches = WatchProgress(timing.delivery, clock)
        self._cluster = cluster
        self._state = state
        self._recorder = recorder
        self._rounds = rounds
        self._counters = counters
        self._clock = clock
        self._timing = timing
        self._queue: set[str] = set()  # names of nodes that need a round
        self._wake = asyncio.Event()
        self._progress_at = clock()
        self._statuses_updated_at = clock() - timing.status_interval
        self._resync_due = self._audit_due = clock()
        self._status_errors: dict[str, str] = {}  # why a policy's status could not be written, by kind and name
        self._fault: str | None = "not all policies and nodes are read yet"

    def enqueue(self, name: str) -> None:
        """Run a round of the node ``name`` soon."""
        self._queue.add(name)
        self._wake.set()

    def enqueue_all(self) -> None:
        """Run a round of every node soon."""
        self._queue.update(self._state.nodes)
        self._wake.set()

    def stalled(self) -> str | None:
        """Say in one line that the loop no longer makes progress; None if it does."""
        seconds = self._clock() - max(self._progress_at, self._rounds.progress_at)
        return f"no round for {seconds:.0f}s" if seconds > self._timing.stalled_after else None

    def unready(self) -> str | None:
        """Say in one line why decisions may not be up to date; None if they are.

        The API server's objects cannot be read, or kopf's watches do not deliver them.
        """
        return self._fault or self.watches.fault()

    async def run(self) -> None:
        """Run for ever; nothing is decided before all policies, namespaces and nodes are known."""
        while True:
            self._progress_at = self._clock()
            if await self._succeeds(self._load()):
                break
            await asyncio.sleep(self._timing.load_retry)
        self.enqueue_all()
        self._resync_due = self._clock() + self._timing.resync
        self._audit_due = self._clock() + self._timing.audit_interval
        while True:
            self._progress_at = self._clock()
            await self._run_rounds()
            await self._wait()

    async def _wait(self) -> None:
        """Wait until something changes or a resync is due; a resync enqueues every node, however much changes."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, self._resync_due - self._clock())):
                await self._wake.wait()
                await asyncio.sleep(self._timing.settle)
        self._wake.clear()
        if self._clock() < self._resync_due:
            return
        self._resync_due = self._clock() + self._timing.resync
        if self._clock() >= self._audit_due and await self._succeeds(self._audit()):
            self._audit_due = self._clock() + self._timing.audit_interval
        self._state.prune()
        self.enqueue_all()

    async def _succeeds(self, reading: Awaitable[None]) -> bool:
        """Read objects from the API server, and say whether that succeeds; the same fault is logged once."""
        try:
            await reading
        except ApiError as error:
            fault = str(error)
            if fault != self._fault:
                _log.error("%s", fault)
            self._fault = fault
            return False
        self._fault = None
        return True

    async def _load(self) -> None:
        for body in await self._list(paths.NAMESPACES):
            self._state.put_namespace(body["metadata"]["name"], body["metadata"].get("labels", {}))
        for store in self._state.stores:
            for body in await self._list(_collection(store)):
                store.put(body)
        for body in await self._list(paths.NODE_PRESSURES):
            self._state.put_node(body, self._clock())

    async def _list(self, path: str) -> list[Object]:
        """List a collection for the first time; kopf has yet to deliver the same objects."""
        deliveries = self.watches.deliveries
        items: list[Object] = (await self._cluster.get(path))["items"]
        self.watches.compare(path, [item["metadata"] for item in items], deliveries, first=True)
        return items

    async def _audit(self) -> None:
        """Compare what is known with the API server's objects.

        Objects that are gone are forgotten: when kopf lists anew, it does not tell what was deleted meanwhile.
        """
        collections: tuple[tuple[str, *tuple[MutableMapping[str, Any], ...]], ...] = (
            (paths.NAMESPACES, self._state.namespaces),
            *((_collection(store), store.policies, store.unreadable) for store in self._state.stores),
            (paths.NODE_PRESSURES, self._state.nodes),
        )
        for path, *known in collections:
            before = [(objects, name, item) for objects in known for name, item in objects.items()]
            deliveries = self.watches.deliveries
            listed = await self._cluster.metadata(path)
            self.watches.compare(path, listed, deliveries)
            names = {metadata["name"] for metadata in listed}
            for objects, name, item in before:
                # One that handlers have replaced while the names were read may be newer than the names.
                if name not in names and objects.get(name) is item:
                    del objects[name]
                    self._queue.add(name)  # the round of a node that is gone drops the node's result

    async def _run_rounds(self) -> None:
        """Run the rounds of all enqueued nodes, and update statuses, but no more often than every few seconds."""
        names, self._queue = self._queue, set()
        for name in sorted(names):
            await self._rounds.run(name)
            self._progress_at = self._clock()
        seconds_left = self._statuses_updated_at + self._timing.status_interval - self._clock()
        if seconds_left <= 0:
            await self._update_statuses()
            self._statuses_updated_at = self._clock()
        elif names:
            asyncio.get_running_loop().call_later(seconds_left, self._wake.set)

    async def _update_statuses(self) -> None:
        """Write the policies' statuses that have changed."""
        for store in self._state.stores:
            counts_by_policy = count_policies(self._state, store)
            for policy in [loaded.resource for loaded in store.policies.values()]:
                counts = counts_by_policy.get(policy.metadata.name, PolicyCounts())
                status = policy_status(store.policy_type, policy, counts, self._rounds.results, datetime.now(UTC))
                await self._update_status(store, policy, status)
            for unreadable in list(store.unreadable.values()):
                await self._update_status(store, unreadable, unreadable_status(unreadable, datetime.now(UTC)))

    async def _update_status(
        self, store: PolicyStore[Any, Any], policy: Policy | UnreadablePolicy, status: PolicyStatus
    ) -> None:
        if policy.status is not None and status == policy.status:
            return
        if await self._write_status(store, policy, status):
            store.set_status(policy.metadata.name, policy.metadata.uid, status)
            await self._post_condition_events(policy, status.conditions)
        self._progress_at = self._clock()

    async def _write_status(
        self, store: PolicyStore[Any, Any], policy: Policy | UnreadablePolicy, status: PolicyStatus
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
            await self._cluster.apply(paths.policy_status(_collection(store), name), body)
        except NotFoundError:
            self._counters.count_status("gone")
            return False
        except ApiError as error:
            self._counters.count_status("failed")
            if self._status_errors.get(subject) != str(error):
                _log.warning("%s", error)
            self._status_errors[subject] = str(error)
            return False
        self._counters.count_status("written")
        self._status_errors.pop(subject, None)
        return True

    async def _post_condition_events(self, policy: Policy | UnreadablePolicy, conditions: list[Condition]) -> None:
        """Post an event for each condition whose status has changed; a condition that is new has not changed."""
        before = {condition.type: condition.status for condition in policy.status.conditions} if policy.status else {}
        about = ObjectReference(API_VERSION, policy.kind, policy.metadata.name, policy.metadata.uid)
        for condition in conditions:
            if before.get(condition.type) not in (None, condition.status):
                # Ready is good when it is true; all other conditions are good when they are false.
                warning = (condition.type == ConditionType.READY) != (condition.status == "True")
                await self._recorder.post(about, condition.reason, condition.message, action="Report", warning=warning)


def _collection(store: PolicyStore[Any, Any]) -> str:
    """Build the path of the store's policies in the API."""
    return paths.ours(store.policy_type.model.plural)
