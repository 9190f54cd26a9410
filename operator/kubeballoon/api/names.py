"""This module holds names that other programs rely on: API group, annotations, Leases, and KubeVirt's node label."""

from __future__ import annotations

GROUP = "kubeballoon.io"
VERSION = "v1alpha1"

DNS_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
"""The pattern of a namespace's name."""
DNS_NAME = f"{DNS_LABEL}([.]{DNS_LABEL})*"
"""The pattern of other objects' names."""

LONGEST_NAME = 253
"""The most characters of an object's name."""

MEMORY_TARGET = f"{GROUP}/memory-target"
"""The memory request: how much the VM may use now, a canonical quantity, exact to the byte."""
MEMORY_MIN = f"{GROUP}/memory-min"
"""The memory that the agent leaves the VM whatever the target says, a canonical quantity."""
POLICY = f"{GROUP}/policy"
"""The MemoryPolicy that governs the VM."""
REASON = f"{GROUP}/reason"
"""Why the memory target is what it is, for people."""
MEMORY_METHOD = f"{GROUP}/memory-method"
"""How memory is to be reclaimed from the guest; without the annotation the agent picks."""
PROCESSOR_TARGET = f"{GROUP}/processor-target"
"""The processor request: how many the VM may use now, a whole number."""
PROCESSOR_METHOD = f"{GROUP}/processor-method"
"""How processors are to be reclaimed; without the annotation the agent picks."""
PROCESSOR_POLICY = f"{GROUP}/processor-policy"
"""The ProcessorPolicy that governs the VM."""
PROCESSOR_REASON = f"{GROUP}/processor-reason"
"""Why the processor target is what it is, for people."""
EXCLUDE = f"{GROUP}/exclude"
"""A VM's owner sets this annotation to "true" to have the VM left alone, where its policy allows that."""
RELEASE = f"{GROUP}/release"
"""An administrator sets this annotation to "true" on a policy or a NodePressure: while it stands, nothing is requested
of the VMs of that policy or node."""

CONTROLLER_ANNOTATIONS = (
    MEMORY_TARGET,
    MEMORY_MIN,
    POLICY,
    REASON,
    MEMORY_METHOD,
    PROCESSOR_TARGET,
    PROCESSOR_METHOD,
    PROCESSOR_POLICY,
    PROCESSOR_REASON,
)
"""The annotations of a VMI that are a request; admission keeps everybody but the controller from writing them."""

MIGRATION_CANCELLED = f"{GROUP}/migration-cancelled"
"""When the controller last cancelled a migration of the VM: KubeVirt keeps no migration that was cancelled."""

LASTING_ANNOTATIONS = (*CONTROLLER_ANNOTATIONS, MIGRATION_CANCELLED)
"""All annotations that the controller leaves on a VMI, which an uninstallation removes."""

TAINT = f"{GROUP}/memory-pressure"
"""The key of the taint on Nodes that are short of memory."""

MIGRATION_TARGET = f"{GROUP}/target-node"
"""The annotation of a VirtualMachineInstanceMigration that the controller made: the Node that the VM goes to."""

HOSTNAME_LABEL = "kubernetes.io/hostname"
"""Kubernetes' label of a Node by which pods select it."""

KUBEVIRT_SCHEDULABLE_LABEL = "kubevirt.io/schedulable"
"""KubeVirt's label of a Node: "true" while VMs may be placed there."""

NODE_NAME_LABEL = "kubevirt.io/nodeName"
"""KubeVirt's label on a VMI that names the node it runs on."""

LEADER_ACCOUNT = f"{GROUP}/leader-account"
"""The annotation of a Lease with the uid of the account of the controller that holds it, or held it last."""

SHUT_OUT_ACCOUNT = f"{GROUP}/shut-out-account"
"""The annotation of a Lease with the uid of the account whose controllers alone it keeps from leading."""

CONTROLLER_LEASE = "kubeballoon-controller"
"""The name of the controllers' Lease: the replica that holds it decides."""
UNINSTALLER_PREFIX = "uninstall_"
"""How the identity of an uninstallation begins while it holds the controllers' Lease."""
