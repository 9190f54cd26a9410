"""This module keeps the taint of nodes that are short of memory as NodePolicies say."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping

from kubeballoon.cluster import paths
from kubeballoon.cluster.client import ApiClient, ApiError, ConflictError, InvalidError, NotFoundError, Object
from kubeballoon.cluster.events import EventRecorder
from kubeballoon.cluster.node_taints import has_taint, read_taint, write_taint
from kubeballoon.cluster.reflector import Reflector
from kubeballoon.controller.cluster_state import ClusterState
from kubeballoon.controller.node_remedy import NodeRemedy
from kubeballoon.core.tainting import TaintableNode, TaintTerms, choose_taints
from kubeballoon.governance.report_bounds import SILENT_AFTER
from kubeballoon.vocabulary import NodeState, RemedyMode, TaintEffect

_log = logging.getLogger(__name__)

_UNREAD = "no node is tainted: Nodes cannot be read"

TAINTED, UNTAINTED, WOULD_TAINT = "Tainted", "Untainted", "WouldTaint"
"""The reasons of events on Nodes."""


class _NodeWatch(Reflector):
    """A _NodeWatch knows the Nodes by name and taints alone: their statuses are large."""

    def __init__(self, cluster: ApiClient) -> None:
        """Watch all Nodes of ``cluster``."""
        super().__init__(cluster, paths.NODES)

    def _kept(self, item: Object) -> Object:
        metadata = {key: item["metadata"][key] for key in ("name", "uid", "resourceVersion")}
        return {"metadata": metadata, "spec": {"taints": item.get("spec", {}).get("taints") or []}}

    def by_name(self) -> dict[str, Object]:
        """Return the Nodes by their names."""
        return {node["metadata"]["name"]: node for node in self.objects()}


class NodeTainter(NodeRemedy):
    """A NodeTainter taints the nodes that NodePolicies choose, and removes the taint from all others.

    It remembers when each node was last short of memory. A new leader does not know that: a taint that it finds stays
    for as long as if the node had been short when it began.
    """

    _event_action = "Taint"

    def __init__(
        self,
        cluster: ApiClient,
        state: ClusterState,
        recorder: EventRecorder,
        may_write: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin without knowing when any node was short of memory; the arguments are a NodeRemedy's."""
        super().__init__(cluster, state, recorder, may_write, clock)
        self._nodes = _NodeWatch(cluster)
        self._short_at: dict[str, float] = {}  # when each node was last seen not to be Ample
        self._critical_at: dict[str, float] = {}  # when each node was last seen to be Critical

    async def watch(self) -> None:
        """Follow the Nodes until cancelled; without the right to taint them, there is no need to."""
        if self._state.taints_enabled:
            await self._nodes.run()

    async def update(self) -> None:
        """Decide anew, and write the taints that differ."""
        if self._state.taints_enabled and not self._nodes.synced.is_set():
            self._state.taint_fault = _UNREAD if self._nodes.tried else None
            return  # a taint that is not known yet would be forgotten
        if self._state.taint_fault == _UNREAD:
            self._state.taint_fault = None
        present = self._nodes.by_name()
        self._record_states()
        chosen: dict[str, TaintEffect] = {}
        to_write: dict[str, TaintEffect] = {}
        for terms, names in self._pools():
            of_pool = choose_taints(terms, [self._taintable(name, present) for name in names])
            chosen |= of_pool
            if terms.mode is RemedyMode.ENFORCE:
                to_write |= of_pool
        await self._announce(chosen, to_write)
        self._state.taints = chosen
        for name, node in present.items():
            if has_taint(node) if to_write.get(name) is None else read_taint(node) is not to_write[name]:
                await self._write(node, to_write.get(name))

    def _record_states(self) -> None:
        """Remember how short of memory each node is; the report of a silent agent says nothing about now."""
        now = self._clock()
        for name, pressure in self._state.nodes.items():
            first = name not in self._short_at
            silent = self._state.seconds_since_heard(name, now) > SILENT_AFTER
            state = NodeState.AMPLE if pressure.status is None or silent else pressure.status.state
            if first or state is not NodeState.AMPLE:
                self._short_at[name] = now
            if first or state is NodeState.CRITICAL:
                self._critical_at[name] = now
        for moments in (self._short_at, self._critical_at):
            for name in moments.keys() - self._state.nodes.keys():
                del moments[name]

    def _pools(self) -> Iterator[tuple[TaintTerms, list[str]]]:
        """Iterate over the NodePolicies that taint, each with the nodes that it governs."""
        for policy, names in self._state.pools().items():
            terms = self._state.node_policies.policies[policy].taints
            if terms.mode is not RemedyMode.OFF:
                yield terms, names

    def _taintable(self, name: str, present: Mapping[str, Object]) -> TaintableNode:
        """Describe a node; where nothing is written, it has the taint that it was last chosen to have."""
        now, status = self._clock(), self._state.nodes[name].status
        silent = self._state.seconds_since_heard(name, now) > SILENT_AFTER
        written = self._state.taints_enabled and name in present
        return TaintableNode(
            name=name,
            state=NodeState.AMPLE if status is None or silent else status.state,
            ample_for=now - self._short_at[name],
            not_critical_for=now - self._critical_at[name],
            effect=read_taint(present[name]) if written else self._state.taints.get(name),
        )

    async def _announce(self, chosen: Mapping[str, TaintEffect], to_write: Mapping[str, TaintEffect]) -> None:
        """Post an event for each node that would be tainted otherwise than before, if nothing is written there."""
        for name, effect in chosen.items():
            if name not in to_write and self._state.taints.get(name) is not effect:
                await self._post_about_node(
                    name, WOULD_TAINT, f"its NodePolicy only observes; it would taint it with {effect}"
                )

    async def _write(self, node: Object, effect: TaintEffect | None) -> None:
        """Write a node's taint; what fails is tried again at the next update."""
        name = node["metadata"]["name"]
        if not self._may_write():
            return
        try:
            await write_taint(self._cluster, node, effect)
        except (ConflictError, InvalidError, NotFoundError):
            return  # the node has changed since, or is gone
        except ApiError as error:
            if str(error) != self._state.taint_fault:
                _log.warning("%s", error)
            self._state.taint_fault = str(error)
            return
        self._state.taint_fault = None
        if effect is None:
            await self._post_about_node(
                name, UNTAINTED, "the scheduler may use it again: it is not short of memory any more"
            )
        else:
            pressure = self._state.nodes.get(name)
            state = "short of memory" if pressure is None or pressure.status is None else pressure.status.state
            await self._post_about_node(name, TAINTED, f"tainted with {effect}: its state is {state}", warning=True)
        await asyncio.sleep(0)
