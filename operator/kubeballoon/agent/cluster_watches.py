"""This module follows what an agent reads of the API server: its node's labels and VMs, policies, and namespaces."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping

from kubeballoon.agent.node_labels import NodeLabels
from kubeballoon.api.names import NODE_NAME_LABEL
from kubeballoon.cluster import paths
from kubeballoon.cluster.client import ApiClient
from kubeballoon.cluster.reflector import Reflector, without_status


class ClusterWatches:
    """ClusterWatches keep an agent's knowledge of the API server's objects up to date.

    Attributes:
        vms: the VirtualMachineInstances of the agent's node.
        policies: all MemoryPolicies.
        processor_policies: all ProcessorPolicies; only the labels that they select by are of interest.
        node_policies: all NodePolicies.
        node_labels: the labels of the agent's Node.
        namespaces: all namespaces, with their names and labels alone.
        kubevirts: KubeVirt's own objects, which say how far it lets memory be overcommitted.
    """

    def __init__(
        self,
        cluster: ApiClient,
        node: str,
        changed: Callable[[], None],
        namespace_changed: Callable[[], None],
        kubevirt_changed: Callable[[], None],
        node_changed: Callable[[], None],
        labels_interval: float,
    ) -> None:
        """Prepare the watches.

        Args:
            cluster: the API server.
            node: the node's name.
            changed: called after every change of a VM or policy.
            namespace_changed: called after every change of a namespace.
            kubevirt_changed: called after every change of KubeVirt's own object.
            node_changed: called after every change of a NodePolicy, or of the Node's labels.
            labels_interval: between two readings of the Node's labels, seconds.
        """
        selector = f"{NODE_NAME_LABEL}={node}"
        self.vms = Reflector(cluster, paths.INSTANCES, label_selector=selector, changed=changed)
        # The controller writes policies' statuses now and then, and each write goes to the agent of every node.
        self.policies = Reflector(cluster, paths.MEMORY_POLICIES, changed=changed, essence=without_status)
        self.processor_policies = Reflector(cluster, paths.PROCESSOR_POLICIES, changed=changed, essence=without_status)
        self.node_policies = Reflector(cluster, paths.NODE_POLICIES, changed=node_changed, essence=without_status)
        self.node_labels = NodeLabels(cluster, node, node_changed, labels_interval)
        self.namespaces = Reflector(cluster, paths.NAMESPACES, labels_only=True, changed=namespace_changed)
        self.kubevirts = Reflector(cluster, paths.KUBEVIRTS, changed=kubevirt_changed)

    def start(self, tasks: asyncio.TaskGroup) -> None:
        """Follow everything, each in a task of its own."""
        tasks.create_task(self.vms.run(), name="watch VMs")
        tasks.create_task(self.policies.run(), name="watch policies")
        tasks.create_task(self.processor_policies.run(), name="watch processor policies")
        tasks.create_task(self.node_policies.run(), name="watch node policies")
        tasks.create_task(self.node_labels.run(), name="read node labels")
        tasks.create_task(self.namespaces.run(), name="watch namespaces")
        tasks.create_task(self.kubevirts.run(), name="watch KubeVirt")

    @property
    def known(self) -> bool:
        """Whether the VMs are known, and policies, namespaces and the Node's labels as far as they may be read.

        Before that nothing is moved: an annotation that was not read yet may be there.
        """
        others = self.policies, self.node_policies, self.node_labels, self.namespaces, self.kubevirts
        return self.vms.synced.is_set() and all(each.tried for each in others)

    def unread(self) -> str | None:
        """Say in one line that the VMs are not known yet; None if they are."""
        return None if self.vms.synced.is_set() else "the VMs of this node are not read yet"

    def fault(self) -> str | None:
        """Say in one line what cannot be watched; None if everything is in step."""
        named = {"VMs": self.vms, "policies": self.policies, "namespaces": self.namespaces}
        lost = [name for name, reflector in named.items() if not reflector.reachable]
        return f"{' and '.join(lost)} cannot be watched" if lost else None

    def labels(self, namespaces: Collection[str]) -> dict[str, Mapping[str, str]]:
        """Read the labels of those of the namespaces that are known."""
        known = (namespace["metadata"] for namespace in self.namespaces.objects())
        return {each["name"]: each.get("labels", {}) for each in known if each["name"] in namespaces}
