"""MemoryPolicy and NodePressure: the sole source of the CRDs in crds/."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from kubeballoon.api import rules
from kubeballoon.api.meta import ApiModel, Condition, ObjectMeta, Time
from kubeballoon.api.names import GROUP, VERSION
from kubeballoon.api.quantity import Amount, Quantity
from kubeballoon.api.selector import LabelSelector

API_VERSION = f"{GROUP}/{VERSION}"
Conditions = Annotated[
    list[Condition],
    Field(
        default_factory=list,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    ),
]
Percent = Annotated[int, Field(ge=0, le=100)]


class PrinterColumn(ApiModel):
    """A column of ``kubectl get``; those of priority 1 only with ``-o wide``."""

    name: str
    type: str
    json_path: str = Field(serialization_alias="jsonPath")
    priority: int = 0
    description: str | None = None


class Resource(ApiModel):
    """A kind of ours. The class attributes say what its CRD is made of."""

    plural: ClassVar[str]
    short_names: ClassVar[tuple[str, ...]]
    columns: ClassVar[tuple[PrinterColumn, ...]]

    metadata: ObjectMeta


class Mode(StrEnum):
    """Enforce carries the decisions out; Observe computes and reports them, and changes nothing."""

    ENFORCE = "Enforce"
    OBSERVE = "Observe"


class When(StrEnum):
    """Overcommitted keeps targets within the node's capacity always; UnderPressure waits for the node to run short."""

    OVERCOMMITTED = "Overcommitted"
    UNDER_PRESSURE = "UnderPressure"


class OwnerExclusion(StrEnum):
    """Whether a VM's owner may keep it out with the annotation kubeballoon.io/exclude."""

    ALLOW = "Allow"
    DENY = "Deny"


class PolicySelector(ApiModel):
    """Which VMs a policy is for. A selector left out, or empty, selects all."""

    namespace_selector: LabelSelector = Field(
        default_factory=LabelSelector, description="Labels of the VM's namespace."
    )
    virtual_machine_selector: LabelSelector = Field(
        default_factory=LabelSelector, description="Labels of the VirtualMachineInstance."
    )


class MemorySettings(ApiModel):
    """How much memory each selected VM is guaranteed, may use, and how it fares against the others."""

    rules = (rules.amount("min"), rules.amount("max"), rules.amount("headroom"), rules.not_above("min", "max"))

    min: Amount = Field(
        default="50%",
        description="What each VM is guaranteed whatever happens: a quantity, or a percentage of the VM's memory.",
    )
    max: Amount = Field(
        default="100%", description="What each VM may use at most: a quantity, or a percentage of the VM's memory."
    )
    shares: int = Field(
        default=1000, ge=1, le=1_000_000, description="The relative claim of each GiB of a VM's memory."
    )
    idle_tax: int = Field(
        default=75,
        ge=0,
        le=99,
        description="The price of idle memory: at 75 percent an idle byte costs as much as four in use; "
        "at 0 idle memory is not reclaimed before other memory.",
    )
    headroom: Amount = Field(
        default="10%",
        description="Added to what a guest is seen to need: a quantity, or a percentage of the VM's memory.",
    )


class ReclaimSettings(ApiModel):
    """When and how fast memory is taken back."""

    rules = (rules.positive_quantity("maxRate"),)

    when: When = When.OVERCOMMITTED
    max_rate: Quantity | None = Field(
        default=None,
        description="The most that is taken from one VM in a second. Left out, the guest's own pace decides.",
    )


class MemoryPolicySpec(ApiModel):
    """What the administrator wants."""

    selector: PolicySelector
    priority: int = Field(
        default=0,
        ge=-1_000_000,
        le=1_000_000,
        description="Of the policies that select a VM the one with the highest priority governs it; ties go to the "
        "name that sorts first.",
    )
    mode: Mode = Mode.ENFORCE
    owner_exclusion: OwnerExclusion = OwnerExclusion.ALLOW
    memory: MemorySettings = Field(default_factory=MemorySettings, json_schema_extra={"default": {}})
    reclaim: ReclaimSettings = Field(default_factory=ReclaimSettings, json_schema_extra={"default": {}})


class Exclusion(ApiModel):
    """How many VMs are left out for one reason."""

    reason: str
    count: int


class MemoryPolicyStatus(ApiModel):
    """What the policy does at present."""

    observed_generation: int = 0
    matched: int = Field(default=0, description="VMs that the selector selects.")
    governed: int = Field(default=0, description="Of those, the VMs this policy governs.")
    excluded: list[Exclusion] = Field(
        default_factory=list,
        description="Of the governed VMs, those that are not ballooned, by reason.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["reason"]},
    )
    reserved: Quantity = Field(default=0, description="Memory taken back from the governed VMs.")
    conditions: Conditions


class MemoryPolicy(Resource):
    """MemoryPolicy says how much memory VMs are guaranteed and may use, and when it is taken back from them."""

    plural = "memorypolicies"
    short_names = ("mempol",)
    columns = (
        PrinterColumn(name="Mode", type="string", json_path=".spec.mode"),
        PrinterColumn(name="Priority", type="integer", json_path=".spec.priority"),
        PrinterColumn(name="Governed", type="integer", json_path=".status.governed"),
        PrinterColumn(name="Reserved", type="string", json_path=".status.reserved"),
        PrinterColumn(name="Ready", type="string", json_path='.status.conditions[?(@.type=="Ready")].status'),
        PrinterColumn(name="Reason", type="string", json_path='.status.conditions[?(@.type=="Ready")].reason'),
        PrinterColumn(name="Matched", type="integer", json_path=".status.matched", priority=1),
        PrinterColumn(
            name="Message", type="string", json_path='.status.conditions[?(@.type=="Ready")].message', priority=1
        ),
        PrinterColumn(name="Age", type="date", json_path=".metadata.creationTimestamp"),
    )

    api_version: Literal["kubeballoon.io/v1alpha1"] = "kubeballoon.io/v1alpha1"
    kind: Literal["MemoryPolicy"] = "MemoryPolicy"
    spec: MemoryPolicySpec
    status: MemoryPolicyStatus | None = None


class NodeState(StrEnum):
    """How short of memory the node is, from ample to desperate."""

    HIGH = "High"
    SOFT = "Soft"
    HARD = "Hard"
    LOW = "Low"


class NodeMemory(ApiModel):
    """The node's memory."""

    total: Quantity = Field(description="What the node's workloads may use.")
    available: Quantity = Field(description="Of that, what could be had now without swapping.")
    other: Quantity = Field(description="Memory in use by whatever is not a VM.")
    reserve: Quantity = Field(description="What is kept free: the threshold of state High.")


class Stall(ApiModel):
    """Pressure stall information: percent of the last ten seconds in which some, or all, tasks waited for memory."""

    some: Percent = 0
    full: Percent = 0


class GuestReport(ApiModel):
    """The guest's own statistics; a figure its driver does not report is left out."""

    available: Quantity | None = None
    usable: Quantity | None = None
    unused: Quantity | None = None
    disk_caches: Quantity | None = None
    swap_in: Quantity | None = None
    swap_out: Quantity | None = None
    major_faults: int | None = None


class VirtualMachineReport(ApiModel):
    """One VM as its node's agent sees it."""

    uid: str = Field(description="The uid of the VirtualMachineInstance.")
    namespace: str
    name: str
    labels: dict[str, str] = Field(default_factory=dict, description="The instance's labels, for policies' selectors.")
    size: Quantity = Field(description="The memory the guest was given.")
    actual: Quantity | None = Field(default=None, description="What the balloon leaves it.")
    resident: Quantity | None = Field(default=None, description="What its process holds of the node's memory.")
    overhead: Quantity = Field(default=0, description="Memory of the VM beyond the guest's own.")
    need: Quantity | None = Field(default=None, description="What the guest works with; absent while not known.")
    troubled: bool = Field(default=False, description="The guest swaps or refaults for want of memory.")
    min: Quantity | None = Field(default=None, description="The guarantee as requested.")
    target: Quantity | None = Field(default=None, description="The request in force.")
    relief: Quantity | None = Field(
        default=None, description="What takes the place of the request while node or guest is in trouble."
    )
    policy: str | None = Field(default=None, description="The policy the request came from.")
    eligible: bool = Field(default=True, description="Whether the VM may be ballooned.")
    responsive: bool = Field(default=True, description="Whether its driver follows requests.")
    reason: str | None = Field(default=None, description="Why it is not eligible or not responsive: one word.")
    message: str | None = Field(default=None, description="Why it has what it has.", max_length=1024)
    owner_excluded: bool = Field(default=False, description="Its owner asks for it to be left alone.")
    guest: GuestReport | None = None


class NodePressureStatus(ApiModel):
    """What the agent of the node reports."""

    observed_at: Time = Field(description="When the agent last looked and wrote.")
    agent_version: str = ""
    memory: NodeMemory
    stall: Stall = Field(default_factory=Stall)
    state: NodeState = NodeState.HIGH
    virtual_machines: list[VirtualMachineReport] = Field(
        default_factory=list,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["uid"]},
    )
    conditions: Conditions


class NodePressure(Resource):
    """NodePressure is what the agent of a node reports: its memory, its VMs, and how they follow their requests."""

    plural = "nodepressures"
    short_names = ("nodepressure", "np")
    columns = (
        PrinterColumn(name="State", type="string", json_path=".status.state"),
        PrinterColumn(name="Total", type="string", json_path=".status.memory.total"),
        PrinterColumn(name="Available", type="string", json_path=".status.memory.available"),
        PrinterColumn(name="Ready", type="string", json_path='.status.conditions[?(@.type=="Ready")].status'),
        PrinterColumn(
            name="Reason", type="string", json_path='.status.conditions[?(@.type=="Ready")].reason', priority=1
        ),
        PrinterColumn(name="Reported", type="date", json_path=".status.observedAt"),
        PrinterColumn(name="Age", type="date", json_path=".metadata.creationTimestamp"),
    )

    api_version: Literal["kubeballoon.io/v1alpha1"] = "kubeballoon.io/v1alpha1"
    kind: Literal["NodePressure"] = "NodePressure"
    status: NodePressureStatus | None = None


KINDS: tuple[type[Resource], ...] = (MemoryPolicy, NodePressure)
