"""When rounds are run: soon after something changed, and at the latest every few seconds."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from datetime import UTC, datetime
from typing import Any

from kubeballoon.api.v1alpha1 import API_VERSION, Policy, PolicyStatus
from kubeballoon.cluster import paths
from kubeballoon.cluster.client import ApiClient, ApiError, NotFoundError
from kubeballoon.cluster.events import EventRecorder, ObjectReference
from kubeballoon.controller.cluster_state import ClusterState
from kubeballoon.controller.policy_store import PolicyStore, UnreadablePolicy
from kubeballoon.controller.rounds import RoundRunner
from kubeballoon.controller.status import PolicyCounts, count_policies, policy_status, unreadable_status

_log = logging.getLogger(__name__)

RESYNC = 15.0  # seconds between rounds when nothing happens, as ESX balances
SETTLE = 0.2  # seconds in which changes that come together become one round
STATUS = 2.0  # seconds between two looks at the policies' status
AUDIT = 60.0  # seconds between two comparisons with what the API server has


class Scheduler:
    """The controller's one loop. Handlers mark nodes; it runs their rounds, then brings statuses up to date."""

    def __init__(
        self,
        cluster: ApiClient,
        state: ClusterState,
        announcer: EventRecorder,
        rounds: RoundRunner,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Schedule ``rounds`` over ``state``.

        ``fault`` says what keeps decisions from being made on what the API server has; None when nothing does.
        """
        self._cluster = cluster
        self._state = state
        self._announcer = announcer
        self._rounds = rounds
        self._clock = clock
        self._marked: set[str] = set()
        self._wake = asyncio.Event()
        self._beat = clock()
        self._reported = clock() - STATUS
        self._resync_due = self._audit_due = clock()
        self._unwritten: dict[str, str] = {}  # why a policy's status could not be written
        self.fault: str | None = "not all policies and nodes are read yet"

    def mark(self, name: str) -> None:
        """The node ``name`` needs a round."""
        self._marked.add(name)
        self._wake.set()

    def mark_all(self) -> None:
        """Every node needs a round."""
        self._marked.update(self._state.nodes)
        self._wake.set()

    def stalled(self) -> str | None:
        """What is wrong when the loop has stopped turning, for the liveness probe."""
        silence = self._clock() - max(self._beat, self._rounds.moved)
        return f"no round for {silence:.0f}s" if silence > 4 * RESYNC else None

    async def run(self) -> None:
        """Decide nothing before everything is known; then turn for ever."""
        while True:
            self._beat = self._clock()
            if await self._reads(self._load()):
                break
            await asyncio.sleep(RESYNC / 5)
        self.mark_all()
        self._resync_due, self._audit_due = self._clock() + RESYNC, self._clock() + AUDIT
        while True:
            self._beat = self._clock()
            await self._turn()
            await self._rest()

    async def _rest(self) -> None:
        """Until something changes; now and then, however much does, look at everything again."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, self._resync_due - self._clock())):
                await self._wake.wait()
                await asyncio.sleep(SETTLE)
        self._wake.clear()
        if self._clock() < self._resync_due:
            return
        self._resync_due = self._clock() + RESYNC
        if self._clock() >= self._audit_due and await self._reads(self._audit()):
            self._audit_due = self._clock() + AUDIT
        self._state.prune()
        self.mark_all()

    async def _reads(self, reading: Awaitable[None]) -> bool:
        """Whether the API server lets itself be read; what is wrong is said once."""
        try:
            await reading
        except ApiError as error:
            fault = str(error)
            if fault != self.fault:
                _log.error("%s", fault)
            self.fault = fault
            return False
        self.fault = None
        return True

    async def _load(self) -> None:
        for body in (await self._cluster.get(paths.NAMESPACES))["items"]:
            self._state.put_namespace(body["metadata"]["name"], body["metadata"].get("labels", {}))
        for store in self._state.stores:
            for body in (await self._cluster.get(_collection(store)))["items"]:
                store.put(body)
        for body in (await self._cluster.get(paths.NODE_PRESSURES))["items"]:
            self._state.put_node(body, self._clock())

    async def _audit(self) -> None:
        """Forget what is gone: kopf, where it has to list anew, says nothing of what was deleted meanwhile."""
        kinds: tuple[tuple[str, *tuple[MutableMapping[str, Any], ...]], ...] = (
            (paths.NAMESPACES, self._state.namespaces),
            *((_collection(store), store.policies, store.unreadable) for store in self._state.stores),
            (paths.NODE_PRESSURES, self._state.nodes),
        )
        for path, *places in kinds:
            before = [(objects, name, item) for objects in places for name, item in objects.items()]
            names = await self._cluster.names(path)
            for objects, name, item in before:
                if name not in names and objects.get(name) is item:
                    del objects[name]
                    self._marked.add(name)  # lets a node's outcome go

    async def _turn(self) -> None:
        marked, self._marked = self._marked, set()
        for name in sorted(marked):
            await self._rounds.run(name)
            self._beat = self._clock()
        wait = self._reported + STATUS - self._clock()
        if wait <= 0:
            await self._report()
            self._reported = self._clock()
        elif marked:
            asyncio.get_running_loop().call_later(wait, self._wake.set)

    async def _report(self) -> None:
        """Write the statuses that changed."""
        for store in self._state.stores:
            counts_by_policy = count_policies(self._state, store)
            for policy in [loaded.resource for loaded in store.policies.values()]:
                counts = counts_by_policy.get(policy.metadata.name, PolicyCounts())
                status = policy_status(store.policy_type, policy, counts, self._rounds.results, datetime.now(UTC))
                await self._update(store, policy, status)
            for unreadable in list(store.unreadable.values()):
                await self._update(store, unreadable, unreadable_status(unreadable, datetime.now(UTC)))

    async def _update(
        self, store: PolicyStore[Any, Any], policy: Policy | UnreadablePolicy, status: PolicyStatus
    ) -> None:
        if policy.status is None or status != policy.status:
            await self._write(store, policy, status)
            self._beat = self._clock()

    async def _write(
        self, store: PolicyStore[Any, Any], policy: Policy | UnreadablePolicy, status: PolicyStatus
    ) -> None:
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
            self._rounds.counters.told("gone")
            return
        except ApiError as error:
            self._rounds.counters.told("failed")
            if self._unwritten.get(subject) != str(error):
                _log.warning("%s", error)
            self._unwritten[subject] = str(error)
            return
        self._rounds.counters.told("written")
        self._unwritten.pop(subject, None)
        store.set_status(name, policy.metadata.uid, status)
        before = {condition.type: condition.status for condition in policy.status.conditions} if policy.status else {}
        about = ObjectReference(API_VERSION, policy.kind, name, policy.metadata.uid)
        for condition in status.conditions:
            if before.get(condition.type) not in (None, condition.status):
                bad = (condition.type == "Ready") != (condition.status == "True")
                await self._announcer.post(about, condition.reason, condition.message, action="Report", warning=bad)


def _collection(store: PolicyStore[Any, Any]) -> str:
    """Say where in the API the store's policies are."""
    return paths.ours(store.policy_type.model.plural)
