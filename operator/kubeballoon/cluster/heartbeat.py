"""This module is about the Lease by which a node's agent says that its last report still holds.

A report of many VMs costs the API server many times what a Lease costs, so a report is written only when there is news.
The Lease is in the agent's own namespace, and owned by the agent's account: it is deleted when kubeballoon is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from kubeballoon.cluster import paths
from kubeballoon.cluster.errors import ConflictError, ForbiddenError, NotFoundError, Object
from kubeballoon.governance.report_bounds import SILENT_AFTER

if TYPE_CHECKING:  # commands read Leases by this module, and load no library for HTTP
    from kubeballoon.cluster.client import ApiClient

SELECTOR = "app.kubernetes.io/name=kubeballoon,app.kubernetes.io/component=agent"
"""The labels of agents' Leases."""
_LABELS = dict(label.split("=") for label in SELECTOR.split(","))
_PREFIX = "agent."  # without it, a node called kubeballoon-controller would have the controllers' Lease
_ACCOUNT = "system:serviceaccount:"  # how the user name of a pod's account begins; its namespace and name follow
_FORMAT = "%Y-%m-%dT%H:%M:%S.%fZ"
_SKIPPED = 10  # heartbeats that are left out before an agent that may have no Lease tries again
_LONGEST_NAME = 253  # characters of an object's name


class Heartbeat:
    """A Heartbeat is the Lease of one node's agent.

    Attributes:
        namespace: the Lease's namespace; None while it is not known, or if the agent has no such Lease.
    """

    def __init__(self, cluster: ApiClient, node: str) -> None:
        """Write the Lease of the node ``node``."""
        self.namespace: str | None = None
        self._cluster = cluster
        self._node = node
        self._account: tuple[str, str, str] | None = None  # the agent's account: namespace, name and uid
        self._lease: Object | None = None  # as it was last written or read
        self._skip = 0  # heartbeats to leave out, because the agent may have no Lease

    async def beat(self) -> bool:
        """Say that the last report still holds; return whether that is known now.

        It is not where the agent may have no Lease: then only another report tells that the agent is alive.

        Raises:
            NotFoundError: the Lease was deleted, as the controller does where the node's NodePressure is gone.
            ApiError: the API server cannot be reached, or refuses what the Lease says.
        """
        if self._skip:
            self._skip -= 1
            return False
        before = self._lease
        try:
            if not await self._find_account():
                return self._refuse()
            try:
                await self._renew()
            except ConflictError:  # another agent of this node has written it, while one replaces the other
                self._lease = None
                await self._renew()
        except ForbiddenError:
            return self._refuse()
        # To replace a Lease that is gone creates another one, or is a conflict: by the API server's version.
        if before is not None and _uid(before) != _uid(self._lease):
            raise NotFoundError(f"the Lease {lease_name(self._node)} was deleted")
        return True

    async def last(self) -> datetime | None:
        """Read when the last heartbeat of this node's agent was, whichever pod it ran in; None if there was none.

        Raises:
            ApiError: the API server cannot be reached.
        """
        try:
            if not await self._find_account():
                return None
            self._lease = await self._cluster.get(self._path)
        except (ForbiddenError, NotFoundError):
            return None
        return renewed_at(self._lease)

    def _refuse(self) -> bool:
        self._skip, self.namespace, self._account = _SKIPPED, None, None
        return False

    @property
    def _path(self) -> str:
        return f"{paths.leases(self.namespace or '')}/{lease_name(self._node)}"

    async def _find_account(self) -> bool:
        """Find out which account the agent has; return whether it can have a Lease."""
        if self._account is None:
            review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
            user = (await self._cluster.create(paths.SELF_REVIEWS, review)).get("status", {}).get("userInfo", {})
            namespace, _, name = str(user.get("username", "")).removeprefix(_ACCOUNT).partition(":")
            if not name or len(lease_name(self._node)) > _LONGEST_NAME:
                return False
            self._account, self.namespace = (namespace, name, str(user.get("uid", ""))), namespace
        return True

    async def _renew(self) -> None:
        if self._lease is None:
            try:
                self._lease = await self._cluster.get(self._path)
            except NotFoundError:
                self._lease = await self._cluster.create(paths.leases(self.namespace or ""), self._body())
                return
        before = self._lease
        spec = {**before.get("spec", {}), **self._spec()}
        self._lease = await self._cluster.replace(self._path, {**before, "spec": spec})

    def _body(self) -> Object:
        _, name, uid = self._account or ("", "", "")
        owner = {"apiVersion": "v1", "kind": "ServiceAccount", "name": name, "uid": uid}
        metadata = {"name": lease_name(self._node), "labels": _LABELS, "ownerReferences": [owner]}
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": metadata,
            "spec": {**self._spec(), "acquireTime": datetime.now(UTC).strftime(_FORMAT)},
        }

    def _spec(self) -> Object:
        now = datetime.now(UTC).strftime(_FORMAT)
        return {"holderIdentity": self._node, "leaseDurationSeconds": int(SILENT_AFTER), "renewTime": now}


def _uid(lease: Object | None) -> object:
    return lease and lease["metadata"].get("uid")


def lease_name(node: str) -> str:
    """Make the name of the Lease of a node's agent."""
    return _PREFIX + node


def node_of(lease: Object) -> str | None:
    """Find the node whose agent has a Lease; None if it is no agent's."""
    name = str(lease["metadata"]["name"])
    return name.removeprefix(_PREFIX) if name.startswith(_PREFIX) else None


def renewed_at(lease: Object) -> datetime | None:
    """Read when a Lease was renewed, by the clock of its holder; None if that cannot be read."""
    try:
        moment = datetime.fromisoformat(str(lease["spec"]["renewTime"]))
    except (KeyError, TypeError, ValueError):
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


async def read_heartbeats(cluster: ApiClient, namespace: str) -> Mapping[str, datetime]:
    """Read when each node's agent last said that its report still holds, by the node's name.

    Args:
        cluster: the API server.
        namespace: where the agents run, and have their Leases.

    Raises:
        ForbiddenError: Leases may not be read.
        ApiError: the API server cannot be reached.
    """
    leases = await cluster.get(paths.leases(namespace), labelSelector=SELECTOR)
    return heartbeat_dates(leases["items"] or ())


def heartbeat_dates(leases: Iterable[Object]) -> dict[str, datetime]:
    """Read from agents' Leases when each said last that its report holds, by the node's name."""
    dated = ((node_of(lease), renewed_at(lease)) for lease in leases)
    return {node: moment for node, moment in dated if node is not None and moment is not None}
