"""This module models kubeballoon's kinds: three of policies, and NodePressure; crds/ is generated from it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, computed_field

from kubeballoon.api import rules
from kubeballoon.api.duration import Duration
from kubeballoon.api.meta import ApiModel, Condition, ObjectMeta, Time
from kubeballoon.api.names import DNS_LABEL, DNS_NAME, GROUP, LONGEST_NAME, VERSION
from kubeballoon.api.quantity import AmountText, Bytes, CountText, MinimumText, Quantity
from kubeballoon.api.reasons import AgentReason
from kubeballoon.api.selector import LabelSelector
from kubeballoon.vocabulary import (
    DEFAULT_MINIMUM_PERCENT,
    Migratability,
    Mode,
    NodeState,
    ReclaimMethod,
    ReclaimWhen,
    RemedyMode,
    SwapAbility,
    TaintEffect,
    WorkingSetReclaim,
)

API_VERSION = f"{GROUP}/{VERSION}"
Conditions = Annotated[
    list[Condition],
    Field(
        default_factory=list,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    ),
]
# KubeVirt runs 110 VMs on a node unless told otherwise. Without a bound, a forged report of 15,000 VMs, which fits into
# an object, would hold up the decisions for all other nodes.
_MOST_VMS = 1024
Percent = Annotated[int, Field(ge=0, le=100)]
WholeNumber = Annotated[int, Field(ge=0)]
E = TypeVar("E", bound=StrEnum)


def _unless_newer(words: type[E], instead: E | None) -> BeforeValidator:
    """Read a word of a newer agent as ``instead``, so that one new word does not make a whole node's report unreadable.

    Anything but a word stays an error.
    """

    def read(value: object) -> object:
        return instead if isinstance(value, str) and value not in set(words) else value

    return BeforeValidator(read)


Reason = Annotated[AgentReason, WithJsonSchema({"type": "string"})]
"""A reason in a report. The CRD takes any string, so that it lets a newer agent's reasons through."""


class PrinterColumn(ApiModel):
    """A PrinterColumn is a column of ``kubectl get``; one of priority 1 is shown with ``-o wide`` only."""

    name: str
    type: str
    json_path: str = Field(serialization_alias="jsonPath")
    priority: int = 0
    description: str | None = None


class Resource(ApiModel):
    """A Resource is an object of one of kubeballoon's kinds.

    Attributes:
        plural: the kind's plural name in the API.
        short_names: the kind's short names for kubectl.
        columns: the columns of ``kubectl get``.
    """

    plural: ClassVar[str]
    short_names: ClassVar[tuple[str, ...]]
    columns: ClassVar[tuple[PrinterColumn, ...]]

    metadata: ObjectMeta


class OwnerExclusion(StrEnum):
    """OwnerExclusion says whether a VM's owner may exclude the VM by the annotation kubeballoon.io/exclude."""

    ALLOW = "Allow"
    DENY = "Deny"


class PolicySelector(ApiModel):
    """A PolicySelector says which VMs a policy is for: those that both selectors take.

    A selector that is empty or left out takes all.
    """

    namespace_selector: LabelSelector = Field(
        default_factory=LabelSelector, description="Labels of the VM's namespace."
    )
    virtual_machine_selector: LabelSelector = Field(
        default_factory=LabelSelector, description="Labels of the VirtualMachineInstance."
    )

    @property
    def any_namespace(self) -> bool:
        """Whether the selector takes VMs of every namespace."""
        return self.namespace_selector == LabelSelector()


class PolicySpec(ApiModel):
    """A PolicySpec says which VMs a policy is for, and which of several policies governs a VM."""

    selector: PolicySelector
    priority: int = Field(
        default=0,
        ge=-1_000_000,
        le=1_000_000,
        description="The policy with the highest priority governs a VM that several policies select; of equal ones "
        "the one whose name sorts first.",
    )
    mode: Mode = Mode.ENFORCE
    owner_exclusion: OwnerExclusion = OwnerExclusion.ALLOW


class Exclusion(ApiModel):
    """An Exclusion counts the VMs that are left alone for one reason."""

    reason: str = Field(description="Why VMs are left alone: one word.")
    count: int = Field(description="How many VMs are left alone for this reason.")


class PolicyStatus(ApiModel):
    """A PolicyStatus says what a policy does at present."""

    observed_generation: int = Field(default=0, description="The generation of the policy that the status is about.")
    matched: int = Field(default=0, description="The number of VMs that the selector selects.")
    governed: int = Field(default=0, description="The number of VMs that the policy governs.")
    excluded: list[Exclusion] = Field(
        default_factory=list,
        description="The governed VMs that are left alone, by reason.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["reason"]},
    )
    conditions: Conditions


class Policy(Resource):
    """A Policy is a MemoryPolicy or a ProcessorPolicy."""

    kind: str
    spec: PolicySpec
    status: PolicyStatus | None = None


def _policy_columns(reclaimed: PrinterColumn) -> tuple[PrinterColumn, ...]:
    """List the columns of a policy; ``reclaimed`` is the one that says how much it reclaims."""
    return (
        PrinterColumn(name="Mode", type="string", json_path=".spec.mode"),
        PrinterColumn(name="Priority", type="integer", json_path=".spec.priority"),
        PrinterColumn(name="Governed", type="integer", json_path=".status.governed"),
        reclaimed,
        *_ready_columns(),
    )


def _ready_columns() -> tuple[PrinterColumn, ...]:
    """List the columns of every policy that say whether it is carried out, and since when it exists."""
    return (
        PrinterColumn(name="Ready", type="string", json_path='.status.conditions[?(@.type=="Ready")].status'),
        PrinterColumn(name="Reason", type="string", json_path='.status.conditions[?(@.type=="Ready")].reason'),
        PrinterColumn(name="Matched", type="integer", json_path=".status.matched", priority=1),
        PrinterColumn(
            name="Message", type="string", json_path='.status.conditions[?(@.type=="Ready")].message', priority=1
        ),
        PrinterColumn(name="Age", type="date", json_path=".metadata.creationTimestamp"),
    )


class MemorySettings(ApiModel):
    """How much memory each selected VM is guaranteed and may use, and its weight against other VMs."""

    rules = (
        rules.minimum("min"),
        rules.plausible("min"),
        rules.amount("max"),
        rules.plausible("max", "64Mi", may_be_zero=False),
        rules.amount("headroom"),
        rules.plausible("headroom"),
        rules.not_above("min", "max"),
    )

    min: MinimumText | None = Field(
        default=None,
        description="The memory that each VM keeps whatever happens: a quantity, a percentage of the VM's memory, or "
        "PodRequest: what the VM's pod has requested from the scheduler for the guest, which is all of the VM's memory "
        "where the VM names no request and KubeVirt does not overcommit. Left out, it is "
        f"{DEFAULT_MINIMUM_PERCENT}%, or the max where that is less.",
    )
    max: AmountText = Field(
        default="100%",
        description="The most memory that each VM may use: a quantity, or a percentage of the VM's memory.",
    )
    shares: int = Field(
        default=1000, ge=1, le=1_000_000, description="The relative claim of each GiB of a VM's memory."
    )
    idle_tax: int = Field(
        default=75,
        ge=0,
        le=99,
        description="The price of idle memory: at 75 percent an idle byte costs as much as four bytes in use; "
        "at 0 idle memory is not reclaimed before other memory.",
    )
    headroom: AmountText = Field(
        default="10%",
        description="Memory added to what a guest needs: a quantity, or a percentage of the VM's memory.",
    )


class ReclaimSettings(ApiModel):
    """When, how and how fast memory is reclaimed."""

    rules = (rules.positive_quantity("maxRate"),)

    when: ReclaimWhen = ReclaimWhen.OVERCOMMITTED
    method: ReclaimMethod = ReclaimMethod.AUTO
    max_rate: Quantity | None = Field(
        default=None,
        description="The most that is reclaimed from one VM in a second. Less than its driver may leave undone, which "
        "is 18Mi at most, is saved up. Left out, the guest's own pace decides.",
    )
    working_set: WorkingSetReclaim = WorkingSetReclaim.IF_SWAPPABLE
    working_set_delay: Duration = Field(
        default="10s",
        description="For how long memory that a guest works with must be lacking elsewhere before it is reclaimed. "
        "Where a guaranteed minimum is lacking, or the node is Scarce or Critical, it is reclaimed at once.",
    )


class MemoryPolicySpec(PolicySpec):
    """A MemoryPolicySpec says which VMs a policy is for, and how memory is divided among them and reclaimed."""

    memory: MemorySettings = Field(default_factory=MemorySettings, json_schema_extra={"default": {}})
    reclaim: ReclaimSettings = Field(default_factory=ReclaimSettings, json_schema_extra={"default": {}})


class MemoryPolicyStatus(PolicyStatus):
    """A MemoryPolicyStatus says what a MemoryPolicy does at present."""

    reclaimed: Quantity = Field(default=0, description="Memory reclaimed from the governed VMs.")


class MemoryPolicy(Policy):
    """MemoryPolicy says how much memory VMs are guaranteed and may use, and when it is reclaimed from them."""

    plural = "memorypolicies"
    short_names = ("mempol",)
    columns = _policy_columns(PrinterColumn(name="Reclaimed", type="string", json_path=".status.reclaimed"))

    api_version: Literal["kubeballoon.io/v1alpha1"] = "kubeballoon.io/v1alpha1"
    kind: Literal["MemoryPolicy"] = "MemoryPolicy"
    spec: MemoryPolicySpec
    status: MemoryPolicyStatus | None = None


class ProcessorSettings(ApiModel):
    """How many processors each selected VM is guaranteed and may use, and its weight against other VMs."""

    rules = (rules.count("min"), rules.count("max"), rules.not_above("min", "max"))

    min: CountText | None = Field(
        default=None,
        description="The processors that each VM keeps: a number, or a percentage of the VM's processors, rounded up. "
        f"Every VM keeps one. Left out, it is {DEFAULT_MINIMUM_PERCENT}%, or the max where that is less.",
    )
    max: CountText = Field(
        default="100%",
        description="The most processors that each VM may use: a number, or a percentage of the VM's processors, "
        "rounded up.",
    )
    shares: int = Field(
        default=1000, ge=1, le=1_000_000, description="The relative claim of each of a VM's processors."
    )


class Threshold(ApiModel):
    """Two percentages with hysteresis: what starts at ``start`` goes on until the value falls below ``end``."""

    rules = (rules.ordered("end", "start"),)

    start: int = Field(ge=1, le=100, description="From this percentage on the node is short of processors.")
    end: int = Field(ge=1, le=100, description="Below this percentage the node is no longer short of processors.")


class TriggerSettings(ApiModel):
    """When processors are reclaimed.

    Pressure starts when stall and usage have both reached their start, and ends when both are below their end.
    """

    when: ReclaimWhen = Field(
        default=ReclaimWhen.UNDER_PRESSURE,
        description="UnderPressure waits until the node runs short of processors; Overcommitted keeps the VMs' "
        "processors within the node's at all times.",
    )
    stall: Threshold = Field(
        default=Threshold(start=25, end=10),
        description="The percentage of the last ten seconds in which some task waited for a processor.",
        json_schema_extra={"default": {"start": 25, "end": 10}},
    )
    usage: Threshold = Field(
        default=Threshold(start=90, end=70),
        description="The percentage of the node's processors in use.",
        json_schema_extra={"default": {"start": 90, "end": 70}},
    )


class ProcessorMethod(StrEnum):
    """Driver unplugs processors through ACPI; GuestAgent has the guest take processors offline.

    An unplugged processor's thread leaves the node. Auto uses the guest agent where it answers, because that is undone
    at once, else the driver.
    """

    DRIVER = "Driver"
    GUEST_AGENT = "GuestAgent"
    AUTO = "Auto"


class ProcessorPolicySpec(PolicySpec):
    """A ProcessorPolicySpec says which VMs a policy is for, and how processors are divided among them and reclaimed."""

    rules = (rules.duration("coolDown"),)

    processors: ProcessorSettings = Field(default_factory=ProcessorSettings, json_schema_extra={"default": {}})
    trigger: TriggerSettings = Field(default_factory=TriggerSettings, json_schema_extra={"default": {}})
    method: ProcessorMethod = ProcessorMethod.AUTO
    cool_down: Duration = Field(
        default="5m", description="How long a VM's processors stay as they are after a change: a duration such as 5m."
    )


class ProcessorPolicyStatus(PolicyStatus):
    """A ProcessorPolicyStatus says what a ProcessorPolicy does at present."""

    reclaimed: int = Field(default=0, description="Processors reclaimed from the governed VMs.")


class ProcessorPolicy(Policy):
    """ProcessorPolicy says how many processors VMs are guaranteed and may use, and when others are reclaimed."""

    plural = "processorpolicies"
    short_names = ("cpupol",)
    columns = _policy_columns(PrinterColumn(name="Reclaimed", type="integer", json_path=".status.reclaimed"))

    api_version: Literal["kubeballoon.io/v1alpha1"] = "kubeballoon.io/v1alpha1"
    kind: Literal["ProcessorPolicy"] = "ProcessorPolicy"
    spec: ProcessorPolicySpec
    status: ProcessorPolicyStatus | None = None


class NodePolicySelector(ApiModel):
    """A NodePolicySelector says which nodes a policy is for. A selector that is empty or left out takes all."""

    node_selector: LabelSelector = Field(default_factory=LabelSelector, description="Labels of the Node.")


class StateThresholdSettings(ApiModel):
    """Below how much available memory each state begins.

    All four are percentages of the node's memory, or all four are quantities. The kubelet's eviction threshold lifts
    them where they would begin too late.
    """

    rules = (
        *(rules.amount(each) for each in ("ample", "tight", "scarce", "critical")),
        *(rules.plausible(each) for each in ("ample", "tight", "scarce", "critical")),
        rules.decreasing("ample", "tight", "scarce", "critical"),
    )

    ample: AmountText = Field(description="From this on a node that was short of memory is Ample again.")
    tight: AmountText = Field(description="Below this the node is Tight.")
    scarce: AmountText = Field(description="Below this the node is Scarce.")
    critical: AmountText = Field(description="Below this the node is Critical.")


class EvictionSettings(ApiModel):
    """When the nodes' kubelets evict pods. What is left out is as the agents were installed."""

    rules = (rules.amount("threshold"), rules.plausible("threshold"), rules.positive_quantity("margin"))

    threshold: AmountText | None = Field(
        default=None,
        description="The kubelet's eviction threshold of memory.available: a quantity, or a percentage of the node's "
        "memory. It counts on nodes whose agents cannot read it from the kubelet's configuration.",
    )
    margin: Quantity | None = Field(
        default=None, description="How far above the eviction threshold Critical begins at the least."
    )


class StallSettings(ApiModel):
    """How long tasks may wait for memory before a node counts as short of it, whatever looks available."""

    tight: int = Field(
        default=20,
        ge=1,
        le=100,
        description="The percentage of the last ten seconds from which on the node is Tight, if some task waited for "
        "memory for as long.",
    )
    scarce: int = Field(
        default=10,
        ge=1,
        le=100,
        description="The percentage of the last ten seconds from which on the node is Scarce, if all tasks waited for "
        "memory for as long.",
    )


class TaintSettings(ApiModel):
    """Whether the scheduler is kept from nodes that are short of memory, by the taint kubeballoon.io/memory-pressure.

    A node that is Tight, Scarce or Critical has the taint with the effect PreferNoSchedule.
    """

    rules = (rules.count("maxTainted", "nodes"), rules.duration("removeAfter"))

    mode: RemedyMode = Field(
        default=RemedyMode.OFF,
        description="Enforce taints nodes, where the installation allows it (taints.enabled of the chart); Observe "
        "only says which it would taint.",
    )
    when_critical: TaintEffect = Field(
        default=TaintEffect.PREFER_NO_SCHEDULE,
        description="The taint's effect while the node is Critical. NoSchedule keeps all new pods away that do not "
        "tolerate it.",
    )
    max_tainted: CountText = Field(
        default="25%",
        description="How many of the governed nodes are tainted at one time at the most, the worst first: a number, or "
        "a percentage, rounded up.",
    )
    remove_after: Duration = Field(
        default="5m",
        description="For how long a node must be in a better state before its taint is removed or weakened.",
    )


class MigrationSettings(ApiModel):
    """Whether VMs are migrated from nodes whose VMs need more memory than there is: balloons cannot mend these.

    They go to other nodes that the policy governs.
    """

    rules = (rules.duration("after"), rules.duration("rest"))

    mode: RemedyMode = Field(
        default=RemedyMode.OFF,
        description="Enforce migrates VMs, where the installation allows it (migrations.enabled of the chart); Observe "
        "only says which it would migrate, and where to.",
    )
    after: Duration = Field(
        default="5m", description="For how long a node's VMs must have needed more memory than it has."
    )
    max_migrations: int = Field(
        default=2, ge=1, le=100, description="How many migrations from the governed nodes are under way at one time."
    )
    max_migrations_per_node: int = Field(
        default=1, ge=1, le=10, description="How many migrations from or to one node are under way at one time."
    )
    rest: Duration = Field(
        default="1h",
        description="For how long a VM is not migrated again after a migration of it was begun; twice as long after "
        "each that failed.",
    )


class NodePolicySpec(ApiModel):
    """A NodePolicySpec says which nodes a policy is for, when they are short of memory, and what is done about it.

    What is left out is as the agents were installed.
    """

    rules = (rules.amount("reserve"), rules.plausible("reserve"))

    selector: NodePolicySelector
    priority: int = Field(
        default=0,
        ge=-1_000_000,
        le=1_000_000,
        description="The policy with the highest priority governs a node that several policies select; of equal ones "
        "the one whose name sorts first.",
    )
    thresholds: StateThresholdSettings | None = Field(
        default=None, description="Left out, they are 6%, 4%, 2% and 1% of the node's memory."
    )
    eviction: EvictionSettings = Field(default_factory=EvictionSettings, json_schema_extra={"default": {}})
    reserve: AmountText | None = Field(
        default=None,
        description="Memory that is kept free of VMs: a quantity, or a percentage of the node's memory. It is no less "
        "than the threshold of Ample, and left out it is that threshold.",
    )
    stall: StallSettings = Field(default_factory=StallSettings, json_schema_extra={"default": {}})
    taint: TaintSettings = Field(default_factory=TaintSettings, json_schema_extra={"default": {}})
    migration: MigrationSettings = Field(default_factory=MigrationSettings, json_schema_extra={"default": {}})


class NodePolicyStatus(ApiModel):
    """A NodePolicyStatus says what a NodePolicy does at present."""

    observed_generation: int = Field(default=0, description="The generation of the policy that the status is about.")
    matched: int = Field(default=0, description="The number of nodes with an agent that the selector selects.")
    governed: int = Field(default=0, description="The number of nodes that the policy governs.")
    tainted: int = Field(default=0, description="The number of governed nodes that have kubeballoon's taint.")
    conditions: Conditions


class NodePolicy(Resource):
    """NodePolicy says when nodes are short of memory, what is kept free, and whether taints or migrations follow."""

    plural = "nodepolicies"
    short_names = ("nodepol",)
    columns = (
        PrinterColumn(name="Priority", type="integer", json_path=".spec.priority"),
        PrinterColumn(name="Governed", type="integer", json_path=".status.governed"),
        PrinterColumn(name="Tainted", type="integer", json_path=".status.tainted"),
        *_ready_columns(),
    )

    api_version: Literal["kubeballoon.io/v1alpha1"] = "kubeballoon.io/v1alpha1"
    kind: Literal["NodePolicy"] = "NodePolicy"
    spec: NodePolicySpec
    status: NodePolicyStatus | None = None


class NodeMemory(ApiModel):
    """The node's memory."""

    total: Bytes = Field(
        description="Memory that pods may use together, without pools of hugepages and what the kubelet keeps for the "
        "system."
    )
    available: Bytes = Field(
        description="Memory that workloads could get now before the kernel swaps or the kubelet evicts pods."
    )
    other: Bytes = Field(description="Memory in use by whatever is not a VM.")
    reserve: Bytes = Field(
        description="Memory to keep free: the threshold of the state Ample, or more if a NodePolicy says so."
    )


class NodeLimitsReport(ApiModel):
    """Where the node's states begin, and why there."""

    ample: Bytes = Field(description="From this on a node that was short of memory is Ample again.")
    tight: Bytes = Field(description="Below this the node is Tight.")
    scarce: Bytes = Field(description="Below this the node is Scarce.")
    critical: Bytes = Field(description="Below this the node is Critical.")
    policy: str | None = Field(
        default=None, description="The NodePolicy that governs the node.", max_length=LONGEST_NAME
    )
    policy_generation: int = Field(default=0, description="The generation of that policy that the agent knows.")
    refused: str | None = Field(
        default=None, description="Why the policy cannot be carried out on this node.", max_length=1024
    )
    capacity: Bytes = Field(description="What the kubelet takes for the node's memory.")
    eviction_threshold: Bytes = Field(
        description="The kubelet's eviction threshold as the agent knows it without a policy."
    )
    eviction_margin: Bytes = Field(
        description="How far above it Critical begins at the least, as the agent was installed."
    )
    eviction_read: bool = Field(
        default=False, description="Whether the threshold was read from the kubelet's configuration."
    )


class NodeProcessors(ApiModel):
    """The node's processors."""

    count: WholeNumber = Field(description="The number of the node's processors.")
    usage: Percent = Field(default=0, description="The percentage of processors in use, over about ten seconds.")
    stall: Percent = Field(
        default=0, description="The percentage of the last ten seconds in which some task waited for a processor."
    )


class Stall(ApiModel):
    """The kernel's pressure stall information: how much of the last ten seconds tasks waited for memory."""

    some: Percent = Field(default=0, description="The percentage of the time in which some task waited.")
    full: Percent = Field(default=0, description="The percentage of the time in which all tasks waited.")


class FreedBy(StrEnum):
    """FreedBy says how a node regains memory that the program in a guest holds; None: not at all."""

    KSM = "KSM"
    NONE = "None"


class GuestReport(ApiModel):
    """The guest's own statistics; a figure that its driver does not report is left out."""

    available: Bytes | None = Field(default=None, description="Memory that the guest's kernel manages.")
    usable: Bytes | None = Field(
        default=None, description="Memory that the guest could use without swapping (MemAvailable)."
    )
    unused: Bytes | None = Field(default=None, description="Memory that the guest does not use at all (MemFree).")
    disk_caches: Bytes | None = Field(default=None, description="Disk caches that the guest could drop quickly.")
    swap_in: Bytes | None = Field(default=None, description="Memory read from swap since the guest was started.")
    swap_out: Bytes | None = Field(default=None, description="Memory written to swap since the guest was started.")
    major_faults: WholeNumber | None = Field(
        default=None, description="Page faults that had to read from a disk since the guest was started."
    )


class ProcessorReport(ApiModel):
    """A VM's processors as its node's agent sees them."""

    size: WholeNumber = Field(description="The number of processors that the VM was given.")
    online: WholeNumber | None = Field(default=None, description="The number of processors that the guest uses now.")
    offlinable: WholeNumber | None = Field(
        default=None, description="The number of processors that the guest uses and could give up."
    )
    usage: WholeNumber | None = Field(
        default=None, description="The VM's usage, in percent of one of the node's processors: 250 is two and a half."
    )
    target: WholeNumber | None = Field(default=None, description="What is requested of the VM.")
    returning: bool = Field(
        default=False, description="No request is in force any more, and not all reclaimed processors are back yet."
    )
    policy: str | None = Field(default=None, description="The policy the request came from.")
    requested_method: Annotated[ProcessorMethod, _unless_newer(ProcessorMethod, ProcessorMethod.AUTO)] = Field(
        default=ProcessorMethod.AUTO, description="How the request is to be carried out."
    )
    method: Annotated[ProcessorMethod | None, _unless_newer(ProcessorMethod, None)] = Field(
        default=None, description="How the request is carried out."
    )
    eligible: bool = Field(default=True, description="Whether processors may be reclaimed from the VM.")
    responsive: bool = Field(default=True, description="Whether the guest follows requests.")
    reason: Reason | None = Field(default=None, description="Why the VM is not eligible or not responsive: one word.")
    message: str | None = Field(default=None, description="Why the VM has the processors that it has.", max_length=1024)

    @property
    def reclaimed(self) -> int:
        """The number of processors that the guest does not use, whoever took them offline; 0 while it is not known."""
        return 0 if self.online is None else max(0, self.size - self.online)


class VirtualMachineReport(ApiModel):
    """A VM as its node's agent sees it."""

    uid: str = Field(description="The uid of the VirtualMachineInstance.", max_length=128)
    namespace: str = Field(
        description="The VirtualMachineInstance's namespace.", max_length=63, pattern=f"^{DNS_LABEL}$"
    )
    name: str = Field(
        description="The VirtualMachineInstance's name.", max_length=LONGEST_NAME, pattern=f"^{DNS_NAME}$"
    )
    labels: dict[str, str] = Field(
        default_factory=dict, description="The VirtualMachineInstance's labels, for policies' selectors."
    )
    labels_cut: bool = Field(
        default=False,
        description="Whether the VirtualMachineInstance has more labels than fit. Those that policies select by come "
        "first.",
    )
    size: Bytes = Field(description="The memory that the guest was given.")
    actual: Bytes | None = Field(default=None, description="The memory that the balloon leaves the guest.")
    resident: Bytes | None = Field(default=None, description="The node's memory that the VM's process holds.")
    overhead: Bytes = Field(default=0, description="Memory of the VM beyond the guest's own.")
    pod_request: Bytes | None = Field(
        default=None,
        description="Memory that the VM's pod has requested from the scheduler for the guest; left out where that is "
        "all of its memory.",
    )
    need: Bytes | None = Field(
        default=None, description="Memory that the guest works with; left out while it is not known."
    )
    present_need: Bytes | None = Field(
        default=None, description="The part of the need that the guest works with at this moment."
    )
    troubled: bool = Field(default=False, description="Whether the guest swaps or refaults because it lacks memory.")
    swap_ability: Annotated[SwapAbility, _unless_newer(SwapAbility, SwapAbility.UNKNOWN)] = Field(
        default=SwapAbility.UNKNOWN, description="Whether the guest can swap, as far as it was seen."
    )
    min: Bytes | None = Field(default=None, description="The guarantee as requested.")
    target: Bytes | None = Field(default=None, description="What is requested of the VM.")
    target_since: Time | None = Field(
        default=None, description="Since when that has been requested, as far as the agents of this node have seen."
    )
    emergency_target: Bytes | None = Field(
        default=None,
        description="The agent's own target, which takes the place of the request while node or guest is in trouble.",
    )
    policy: str | None = Field(default=None, description="The policy the request came from.")
    eligible: bool = Field(default=True, description="Whether the VM may be ballooned.")
    responsive: bool = Field(default=True, description="Whether the VM's driver follows requests.")
    reason: Reason | None = Field(default=None, description="Why the VM is not eligible or not responsive: one word.")
    message: str | None = Field(default=None, description="Why the VM has the memory that it has.", max_length=1024)
    owner_excluded: bool = Field(default=False, description="Whether the VM's owner wants the VM left alone.")
    migratability: Annotated[Migratability | None, _unless_newer(Migratability, None)] = Field(
        default=None,
        description="Whether the VM may be migrated while it runs, or what rules that out; left out by agents that are "
        "too old to say so.",
    )
    requested_method: Annotated[ReclaimMethod, _unless_newer(ReclaimMethod, ReclaimMethod.AUTO)] = Field(
        default=ReclaimMethod.AUTO, description="How memory is to be reclaimed from the guest."
    )
    method: Annotated[ReclaimMethod | None, _unless_newer(ReclaimMethod, None)] = Field(
        default=None, description="How memory is reclaimed from the guest."
    )
    claimed: Bytes | None = Field(
        default=None,
        description="Memory that the program in the guest claims to hold; resident shows how much of it the node has.",
    )
    freed_by: Annotated[FreedBy | None, _unless_newer(FreedBy, None)] = Field(
        default=None, description="How the node regains the memory that the program in the guest holds."
    )
    guest: GuestReport | None = None
    processors: ProcessorReport | None = None

    @property
    def pooled(self) -> bool:
        """Whether the VM's memory is in a pool of hugepages, which is no part of the node's memory here."""
        return self.reason is AgentReason.HUGEPAGES and not self.eligible

    @property
    def reclaimed(self) -> int:
        """Memory reclaimed from the VM, bytes; what the program in the guest holds counts once the node has it back."""
        return 0 if self.actual is None else self.size - self.held_of_node(self.actual)

    def held_of_node(self, actual: int, *, as_claimed: bool = True) -> int:
        """Say how much of the VM's memory the node has to back, bytes, while the guest is left ``actual`` bytes.

        Args:
            actual: what the balloon, or the program in the guest, leaves the guest.
            as_claimed: whether to believe a balloon that it frees what it holds. The program in the guest is never
                believed: what QEMU's process still holds counts.
        """
        if self.resident is not None and (self.method is ReclaimMethod.GUEST_AGENT or not as_claimed):
            actual = max(actual, self.resident - self.overhead)
        return min(self.size, actual)

    @property
    def processors_reclaimed(self) -> int:
        """The number of processors that the VM is without; 0 while its processors are not reported."""
        return 0 if self.processors is None else self.processors.reclaimed


def _unique(vms: list[VirtualMachineReport]) -> list[VirtualMachineReport]:
    """Keep the first report of each VM: the API server lets an agent write several, and each would be decided for."""
    by_uid: dict[str, VirtualMachineReport] = {}
    for vm in vms:
        by_uid.setdefault(vm.uid, vm)
    return list(by_uid.values())


class NodePressureStatus(ApiModel):
    """A NodePressureStatus is what a node's agent reports."""

    observed_at: Time = Field(description="When the agent wrote the report.")
    lease_namespace: str | None = Field(
        default=None,
        description="The namespace of the Lease, named agent.NODE, by which the agent says that its report still "
        "holds; left out where it says so by new reports.",
        max_length=63,
        pattern=f"^{DNS_LABEL}$",
    )
    agent_version: str = Field(default="", description="The version of the agent that reports.")
    labels: dict[str, str] = Field(
        default_factory=dict, description="The Node's labels, for the selectors of NodePolicies."
    )
    labels_cut: bool = Field(
        default=False,
        description="Whether the Node has more labels than fit. Those that NodePolicies select by come first.",
    )
    memory: NodeMemory
    limits: NodeLimitsReport | None = None
    processors: NodeProcessors | None = None
    stall: Stall = Field(default_factory=Stall)
    # A state that is not known here is no reason to take memory from all, and none to grant any.
    state: Annotated[NodeState, _unless_newer(NodeState, NodeState.TIGHT)] = NodeState.AMPLE
    virtual_machines: Annotated[list[VirtualMachineReport], AfterValidator(_unique)] = Field(
        default_factory=list,
        max_length=_MOST_VMS,
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
    conditions: Conditions

    @computed_field(description="Memory reclaimed from the node's VMs.")  # type: ignore[prop-decorator]  # mypy knows none
    @property
    def reclaimed(self) -> Bytes:
        """Memory reclaimed from the node's VMs, bytes."""
        return sum(vm.reclaimed for vm in self.virtual_machines)


class NodePressure(Resource):
    """NodePressure is what the agent of a node reports: its memory, its VMs, and how they follow their requests."""

    plural = "nodepressures"
    short_names = ("np",)
    columns = (
        PrinterColumn(name="State", type="string", json_path=".status.state"),
        PrinterColumn(name="Total", type="string", json_path=".status.memory.total"),
        PrinterColumn(name="Available", type="string", json_path=".status.memory.available"),
        PrinterColumn(name="Reclaimed", type="string", json_path=".status.reclaimed"),
        PrinterColumn(name="Ready", type="string", json_path='.status.conditions[?(@.type=="Ready")].status'),
        PrinterColumn(
            name="Reason", type="string", json_path='.status.conditions[?(@.type=="Ready")].reason', priority=1
        ),
        PrinterColumn(name="Reported", type="date", json_path=".status.observedAt"),
        PrinterColumn(name="Age", type="date", json_path=".metadata.creationTimestamp"),
    )

    api_version: Literal["kubeballoon.io/v1alpha1"] = "kubeballoon.io/v1alpha1"
    kind: Literal["NodePressure"] = "NodePressure"
    # One agent writes all of it, so the API server need not keep for each field who wrote it.
    status: NodePressureStatus | None = Field(default=None, json_schema_extra={"x-kubernetes-map-type": "atomic"})


KINDS: tuple[type[Resource], ...] = (MemoryPolicy, ProcessorPolicy, NodePolicy, NodePressure)
