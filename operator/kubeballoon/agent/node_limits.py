"""This module finds where a node's states begin: by the NodePolicy that governs it, else by the agent's settings."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping

from pydantic import ValidationError

from kubeballoon.agent.node.memory import HostMemory
from kubeballoon.agent.settings import NodeSettings
from kubeballoon.api.meta import fault
from kubeballoon.api.v1alpha1 import NodeLimitsReport, NodePolicy
from kubeballoon.cluster.client import Object
from kubeballoon.core.memory.node_state import NodeLimits
from kubeballoon.governance.node_policies import (
    LoadedNodePolicy,
    govern_limits,
    load_node_policy,
    report_limits,
    select_node_policies,
)

_log = logging.getLogger(__name__)


class LimitsFinder:
    """A LimitsFinder finds the limits of the agent's node."""

    def __init__(self, settings: NodeSettings) -> None:
        """Begin without a policy; ``settings`` hold where a policy says nothing, and where none governs the node."""
        self._settings = settings
        self._policy: LoadedNodePolicy | None = None
        self._refused: str | None = None

    def govern(self, policies: Iterable[Object], labels: Mapping[str, str] | None) -> None:
        """Find the policy that governs the node.

        Args:
            policies: all NodePolicies; one that cannot be read governs no node.
            labels: the Node's labels. While they are not known (None), the policy that governed it goes on doing so.
        """
        if labels is None:
            return
        before, selecting = self._policy, select_node_policies(_read(policies), labels)
        self._policy = selecting[0] if selecting else None
        if (before and before.name) != (self._policy and self._policy.name):
            _log.info("governed by %s", "no NodePolicy" if self._policy is None else f"NodePolicy {self._policy.name}")

    def limits(self, memory: HostMemory) -> NodeLimits:
        """Find the limits of the node with such memory; that its policy cannot hold on it is logged once."""
        governed = govern_limits(self._policy, self._settings.facts(memory))
        if governed.refused is not None and governed.refused != self._refused and self._policy is not None:
            _log.warning("NodePolicy %s cannot hold here: %s", self._policy.name, governed.refused)
        self._refused = governed.refused
        return governed.limits

    def report(self, memory: HostMemory) -> NodeLimitsReport:
        """Write the limits of the node with such memory as they are reported."""
        facts = self._settings.facts(memory)
        return report_limits(govern_limits(self._policy, facts), facts)


def _read(bodies: Iterable[Object]) -> Iterator[LoadedNodePolicy]:
    for body in bodies:
        try:
            yield load_node_policy(NodePolicy.model_validate(body))
        except ValidationError as error:
            _log.warning("NodePolicy %s cannot be read: %s", body["metadata"]["name"], fault(error))
