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
from kubeballoon.cluster.announce import Announcer, Reference
from kubeballoon.cluster.client import Cluster, ClusterError, NotFoundError
from kubeballoon.controller.round import Rounds
from kubeballoon.controller.status import Tally, policy_status, tally, unread_status
from kubeballoon.controller.world import Book, Unread, World

_log = logging.getLogger(__name__)

RESYNC = 15.0  # seconds between rounds when nothing happens, as ESX balances
SETTLE = 0.2  # seconds in which changes that come together become one round
STATUS = 2.0  # seconds between two looks at the policies' status
AUDIT = 60.0  # seconds between two comparisons with what the API server has


class Scheduler:
    """The controller's one loop. Handlers mark nodes; it runs their rounds, then brings statuses up to date."""

    def __init__(
        self,
        cluster: Cluster,
        world: World,
        announcer: Announcer,
        rounds: Rounds,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Schedule ``rounds`` over ``world``.

        ``fault`` says what keeps decisions from being made on what the API server has; None when nothing does.
        """
        self._cluster = cluster
        self._world = world
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
        self._marked.update(self._world.nodes)
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
        self._world.prune()
        self.mark_all()

    async def _reads(self, reading: Awaitable[None]) -> bool:
        """Whether the API server lets itself be read; what is wrong is said once."""
        try:
            await reading
        except ClusterError as error:
            fault = str(error)
            if fault != self.fault:
                _log.error("%s", fault)
            self.fault = fault
            return False
        self.fault = None
        return True

    async def _load(self) -> None:
        for body in (await self._cluster.get(paths.NAMESPACES))["items"]:
            self._world.put_namespace(body["metadata"]["name"], body["metadata"].get("labels", {}))
        for book in self._world.books:
            for body in (await self._cluster.get(book.kind.path))["items"]:
                book.put(body)
        for body in (await self._cluster.get(paths.NODE_PRESSURES))["items"]:
            self._world.put_node(body, self._clock())

    async def _audit(self) -> None:
        """Forget what is gone: kopf, where it has to list anew, says nothing of what was deleted meanwhile."""
        kinds: tuple[tuple[str, *tuple[MutableMapping[str, Any], ...]], ...] = (
            (paths.NAMESPACES, self._world.namespaces),
            *((book.kind.path, book.policies, book.unread) for book in self._world.books),
            (paths.NODE_PRESSURES, self._world.nodes),
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
        for book in self._world.books:
            tallies = tally(self._world, book)
            for policy in list(book.policies.values()):
                counts = tallies.get(policy.metadata.name, Tally())
                status = policy_status(book.kind, policy, counts, self._rounds.outcomes, datetime.now(UTC))
                await self._update(book, policy, status)
            for unread in list(book.unread.values()):
                await self._update(book, unread, unread_status(unread, datetime.now(UTC)))

    async def _update(self, book: Book[Any], policy: Policy | Unread, status: PolicyStatus) -> None:
        if policy.status is None or status != policy.status:
            await self._write(book, policy, status)
            self._beat = self._clock()

    async def _write(self, book: Book[Any], policy: Policy | Unread, status: PolicyStatus) -> None:
        name, subject = policy.metadata.name, f"{policy.kind}/{policy.metadata.name}"
        body = {
            "apiVersion": API_VERSION,
            "kind": policy.kind,
            "metadata": {"name": name},
            "status": status.to_wire(),
        }
        try:
            await self._cluster.apply(paths.policy_status(book.kind.path, name), body)
        except NotFoundError:
            self._rounds.counters.told("gone")
            return
        except ClusterError as error:
            self._rounds.counters.told("failed")
            if self._unwritten.get(subject) != str(error):
                _log.warning("%s", error)
            self._unwritten[subject] = str(error)
            return
        self._rounds.counters.told("written")
        self._unwritten.pop(subject, None)
        book.settle(name, policy.metadata.uid, status)
        before = {condition.type: condition.status for condition in policy.status.conditions} if policy.status else {}
        about = Reference(API_VERSION, policy.kind, name, policy.metadata.uid)
        for condition in status.conditions:
            if before.get(condition.type) not in (None, condition.status):
                bad = (condition.type == "Ready") != (condition.status == "True")
                await self._announcer.post(about, condition.reason, condition.message, action="Report", warning=bad)
