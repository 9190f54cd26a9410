"""Names that other programs rely on: group, annotations, finders."""

from __future__ import annotations

GROUP = "kubeballoon.io"
VERSION = "v1alpha1"

MEMORY_TARGET = f"{GROUP}/memory-target"
"""The request: how much memory the VM may use now. A canonical quantity, exact to the byte."""
MEMORY_MIN = f"{GROUP}/memory-min"
"""The guarantee the agent holds whatever the target says. A canonical quantity."""
POLICY = f"{GROUP}/policy"
"""The policy that governs the VM."""
REASON = f"{GROUP}/reason"
"""Why the target is what it is, for people."""
MEMORY_METHOD = f"{GROUP}/memory-method"
"""How memory is to be reserved in the guest; left out, the agent picks."""
PROCESSOR_TARGET = f"{GROUP}/processor-target"
"""The request: how many processors the VM may use now. A whole number."""
PROCESSOR_METHOD = f"{GROUP}/processor-method"
"""How processors are to be taken; left out, the agent picks."""
PROCESSOR_POLICY = f"{GROUP}/processor-policy"
"""The policy that governs the VM's processors."""
PROCESSOR_REASON = f"{GROUP}/processor-reason"
"""Why the number of processors is what it is, for people."""
EXCLUDE = f"{GROUP}/exclude"
"""Set to "true" by a VM's owner to keep the VM out, where its policy allows."""
RELEASE = f"{GROUP}/release"
"""Set to "true" by an administrator on a policy or a NodePressure: nothing is requested of its VMs until it is gone."""

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
"""What the controller writes on a VMI, and nobody else may."""

NODE_NAME_LABEL = "kubevirt.io/nodeName"
"""KubeVirt's label on a VMI that says where it runs."""
