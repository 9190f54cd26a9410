"""MemoryPolicy, ProcessorPolicy and NodePressure: the sole source of the CRDs in crds/."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import Field, WithJsonSchema, computed_field

from kubeballoon.api import rules
from kubeballoon.api.duration import Duration
from kubeballoon.api.meta import ApiModel, Condition, ObjectMeta, Time
from kubeballoon.api.names import GROUP, VERSION
from kubeballoon.api.quantity import Amount, Count, Quantity
from kubeballoon.api.reasons import AgentReason
from kubeballoon.api.selector import LabelSelector
from kubeballoon.vocabulary import Mode, NodeState, ReclaimMethod, ReclaimWhen

API_VERSION = f"{GROUP}/{VERSION}"
Conditions = Annotated[
    list[Condition],
    Field(
        default_factory=list,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    ),
]
Percent = Annotated[int, Field(ge=0, le=100)]
Reason = Annotated[AgentReason, WithJsonSchema({"type": "string"})]
"""A reason in a report. The CRD does not list them: it must let through what a newer agent says."""


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


class OwnerExclusion(StrEnum):
    """Whether a VM's owner may keep it out with the annotation kubeballoon.io/exclude."""

    ALLOW = "Allow"
    DENY = "Deny"


class PolicySelector(ApiModel):
    """Which VMs a policy is for. Either of the two selectors left out, or empty, selects all."""

    namespace_selector: LabelSelector = Field(
        default_factory=LabelSelector, description="Labels of the VM's namespace."
    )
    virtual_machine_selector: LabelSelector = Field(
        default_factory=LabelSelector, description="Labels of the VirtualMachineInstance."
    )

    @property
    def any_namespace(self) -> bool:
        """Whether it takes a VM whatever the labels of its namespace."""
        return self.namespace_selector == LabelSelector()


class PolicySpec(ApiModel):
    """What every policy says: which VMs it is for, and how it fares against other policies."""

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


class Exclusion(ApiModel):
    """How many VMs are left out for one reason."""

    reason: str = Field(description="Why they are left alone: one word.")
    count: int = Field(description="How many are.")


class PolicyStatus(ApiModel):
    """What a policy does at present."""

    observed_generation: int = Field(default=0, description="The generation of the policy that this is about.")
    matched: int = Field(default=0, description="VMs that the selector selects.")
    governed: int = Field(default=0, description="Of those, the VMs this policy governs.")
    excluded: list[Exclusion] = Field(
        default_factory=list,
        description="Of the governed VMs, those that are left alone, by reason.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["reason"]},
    )
    conditions: Conditions


class Policy(Resource):
    """A policy of either kind."""

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
        PrinterColumn(name="Ready", type="string", json_path='.status.conditions[?(@.type=="Ready")].status'),
        PrinterColumn(name="Reason", type="string", json_path='.status.conditions[?(@.type=="Ready")].reason'),
        PrinterColumn(name="Matched", type="integer", json_path=".status.matched", priority=1),
        PrinterColumn(
            name="Message", type="string", json_path='.status.conditions[?(@.type=="Ready")].message', priority=1
        ),
        PrinterColumn(name="Age", type="date", json_path=".metadata.creationTimestamp"),
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
    """When, how and how fast memory is reclaimed."""

    rules = (rules.positive_quantity("maxRate"),)

    when: ReclaimWhen = ReclaimWhen.OVERCOMMITTED
    method: ReclaimMethod = ReclaimMethod.AUTO
    max_rate: Quantity | None = Field(
        default=None,
        description="The most that is reclaimed from one VM in a second. Left out, the guest's own pace decides.",
    )


class MemoryPolicySpec(PolicySpec):
    """What the administrator wants."""

    memory: MemorySettings = Field(default_factory=MemorySettings, json_schema_extra={"default": {}})
    reclaim: ReclaimSettings = Field(default_factory=ReclaimSettings, json_schema_extra={"default": {}})


class MemoryPolicyStatus(PolicyStatus):
    """What the policy does at present."""

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
    """How many processors each selected VM is guaranteed, may use, and how it fares against the others."""

    rules = (rules.count("min"), rules.count("max"), rules.not_above("min", "max"))

    min: Count = Field(
        default="50%",
        description="What each VM is guaranteed: a number of processors, or a percentage of the VM's, rounded up. "
        "No VM is left with less than one.",
    )
    max: Count = Field(
        default="100%",
        description="What each VM may use at most: a number of processors, or a percentage of the VM's, rounded up.",
    )
    shares: int = Field(
        default=1000, ge=1, le=1_000_000, description="The relative claim of each of a VM's processors."
    )


class Threshold(ApiModel):
    """Percentages between which what has started goes on, and what has ended stays ended."""

    rules = (rules.ordered("end", "start"),)

    start: int = Field(ge=1, le=100, description="From here on the node is short of processors.")
    end: int = Field(ge=1, le=100, description="Below this it no longer is.")


class TriggerSettings(ApiModel):
    """When processors are reclaimed.

    Pressure starts when stall and usage have both reached their start, and ends when both are below their end.
    """

    when: ReclaimWhen = Field(
        default=ReclaimWhen.UNDER_PRESSURE,
        description="UnderPressure waits for the node to run short; Overcommitted keeps the VMs' processors within the "
        "node's at all times.",
    )
    stall: Threshold = Field(
        default=Threshold(start=25, end=10),
        description="Percent of the last ten seconds in which some task waited for a processor.",
        json_schema_extra={"default": {"start": 25, "end": 10}},
    )
    usage: Threshold = Field(
        default=Threshold(start=90, end=70),
        description="Percent of the node's processors in use.",
        json_schema_extra={"default": {"start": 90, "end": 70}},
    )


class ProcessorMethod(StrEnum):
    """Driver unplugs a processor through ACPI: the guest kernel's driver gives it up, and its thread leaves the node.

    GuestAgent has the guest take it offline. Auto takes the guest agent where it answers, for that is undone at once,
    else the driver.
    """

    DRIVER = "Driver"
    GUEST_AGENT = "GuestAgent"
    AUTO = "Auto"


class ProcessorPolicySpec(PolicySpec):
    """What the administrator wants."""

    rules = (rules.duration("coolDown"),)

    processors: ProcessorSettings = Field(default_factory=ProcessorSettings, json_schema_extra={"default": {}})
    trigger: TriggerSettings = Field(default_factory=TriggerSettings, json_schema_extra={"default": {}})
    method: ProcessorMethod = ProcessorMethod.AUTO
    cool_down: Duration = Field(
        default="5m", description="How long a VM's processors stay as they are after a change: a duration such as 5m."
    )


class ProcessorPolicyStatus(PolicyStatus):
    """What the policy does at present."""

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


class NodeMemory(ApiModel):
    """The node's memory."""

    total: Quantity = Field(description="What the node's workloads may use.")
    available: Quantity = Field(description="Of that, what could be had now without swapping.")
    other: Quantity = Field(description="Memory in use by whatever is not a VM.")
    reserve: Quantity = Field(description="What is kept free: the threshold of state Ample.")


class NodeProcessors(ApiModel):
    """The node's processors."""

    count: int = Field(description="How many it has.")
    usage: Percent = Field(default=0, description="Percent of them in use, over about ten seconds.")
    stall: Percent = Field(default=0, description="Percent of the last ten seconds in which some task waited for one.")


class Stall(ApiModel):
    """Pressure stall information: percent of the last ten seconds in which some, or all, tasks waited for memory."""

    some: Percent = Field(default=0, description="Of the time in which some task waited.")
    full: Percent = Field(default=0, description="Of the time in which all did.")


class FreedBy(StrEnum):
    """FreedBy says how a node gets memory back that a program in a guest has reserved; None: not at all."""

    KSM = "KSM"
    NONE = "None"


class GuestReport(ApiModel):
    """The guest's own statistics; a figure its driver does not report is left out."""

    available: Quantity | None = Field(default=None, description="All memory that its kernel manages.")
    usable: Quantity | None = Field(default=None, description="What it could use without swapping (MemAvailable).")
    unused: Quantity | None = Field(default=None, description="What is in no use at all (MemFree).")
    disk_caches: Quantity | None = Field(default=None, description="What could be had back quickly.")
    swap_in: Quantity | None = Field(default=None, description="Read back from swap since it was started.")
    swap_out: Quantity | None = Field(default=None, description="Written to swap since it was started.")
    major_faults: int | None = Field(default=None, description="Page faults that had to read, since it was started.")


class ProcessorReport(ApiModel):
    """A VM's processors as its node's agent sees them."""

    size: int = Field(description="How many the VM was given.")
    online: int | None = Field(default=None, description="How many its guest uses now.")
    offlinable: int | None = Field(default=None, description="How many of those its guest could give up.")
    usage: int | None = Field(
        default=None, description="Percent of one of the node's processors: 250 is two and a half."
    )
    target: int | None = Field(default=None, description="The request in force.")
    returning: bool = Field(
        default=False, description="Nothing is requested any more, and what was reclaimed is not all back yet."
    )
    policy: str | None = Field(default=None, description="The policy the request came from.")
    requested_method: ProcessorMethod = Field(
        default=ProcessorMethod.AUTO, description="How the request is to be carried out."
    )
    method: ProcessorMethod | None = Field(default=None, description="What carries it out.")
    eligible: bool = Field(default=True, description="Whether processors may be reclaimed from the VM.")
    responsive: bool = Field(default=True, description="Whether its guest follows requests.")
    reason: Reason | None = Field(default=None, description="Why it is not eligible or not responsive: one word.")
    message: str | None = Field(default=None, description="Why it has what it has.", max_length=1024)

    @property
    def reclaimed(self) -> int:
        """How many processors the VM is without."""
        return 0 if self.online is None else max(0, self.size - self.online)


class VirtualMachineReport(ApiModel):
    """One VM as its node's agent sees it."""

    uid: str = Field(description="The uid of the VirtualMachineInstance.")
    namespace: str = Field(description="Its namespace.")
    name: str = Field(description="Its name.")
    labels: dict[str, str] = Field(default_factory=dict, description="The instance's labels, for policies' selectors.")
    size: Quantity = Field(description="The memory the guest was given.")
    actual: Quantity | None = Field(default=None, description="What the balloon leaves it.")
    resident: Quantity | None = Field(default=None, description="What its process holds of the node's memory.")
    overhead: Quantity = Field(default=0, description="Memory of the VM beyond the guest's own.")
    need: Quantity | None = Field(default=None, description="What the guest works with; absent while not known.")
    present_need: Quantity | None = Field(default=None, description="Of that, what it works with at this moment.")
    troubled: bool = Field(default=False, description="The guest swaps or refaults for want of memory.")
    min: Quantity | None = Field(default=None, description="The guarantee as requested.")
    target: Quantity | None = Field(default=None, description="The request in force.")
    emergency_target: Quantity | None = Field(
        default=None, description="What the agent moves it to instead of the target while node or guest is in trouble."
    )
    policy: str | None = Field(default=None, description="The policy the request came from.")
    eligible: bool = Field(default=True, description="Whether the VM may be ballooned.")
    responsive: bool = Field(default=True, description="Whether its driver follows requests.")
    reason: Reason | None = Field(default=None, description="Why it is not eligible or not responsive: one word.")
    message: str | None = Field(default=None, description="Why it has what it has.", max_length=1024)
    owner_excluded: bool = Field(default=False, description="Its owner asks for it to be left alone.")
    requested_method: ReclaimMethod = Field(
        default=ReclaimMethod.AUTO, description="How memory is to be reserved in the guest."
    )
    method: ReclaimMethod | None = Field(default=None, description="What reserves it.")
    claimed: Quantity | None = Field(
        default=None,
        description="What the program in the guest says it holds. What the node has back of it shows in resident.",
    )
    freed_by: FreedBy | None = Field(
        default=None, description="How the node gets back what the program in the guest has reserved."
    )
    guest: GuestReport | None = None
    processors: ProcessorReport | None = None

    @property
    def reclaimed(self) -> int:
        """Memory reclaimed from the VM, bytes: what a program in its guest holds counts once the node has it back."""
        return 0 if self.actual is None else self.size - self.backed(self.actual)

    def backed(self, actual: int, *, as_claimed: bool = True) -> int:
        """What the node has to back of the VM's memory where its guest is left ``actual``, bytes.

        A balloon is believed unless told otherwise (``as_claimed``); a program in the guest never is.
        """
        if self.resident is not None and (self.method is ReclaimMethod.GUEST_AGENT or not as_claimed):
            actual = max(actual, self.resident - self.overhead)
        return min(self.size, actual)

    @property
    def processors_reclaimed(self) -> int:
        """How many processors the VM is without; 0 where they are not reported."""
        return 0 if self.processors is None else self.processors.reclaimed


class NodePressureStatus(ApiModel):
    """What the agent of the node reports."""

    observed_at: Time = Field(description="When the agent last looked and wrote.")
    agent_version: str = Field(default="", description="The version of the agent that reports.")
    memory: NodeMemory
    processors: NodeProcessors | None = None
    stall: Stall = Field(default_factory=Stall)
    state: NodeState = NodeState.AMPLE
    virtual_machines: list[VirtualMachineReport] = Field(
        default_factory=list,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["uid"]},
    )
    conditions: Conditions

    @computed_field(description="Memory reclaimed from the node's VMs.")  # type: ignore[prop-decorator]  # mypy knows none
    @property
    def reclaimed(self) -> Quantity:
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
    status: NodePressureStatus | None = None


KINDS: tuple[type[Resource], ...] = (MemoryPolicy, ProcessorPolicy, NodePressure)
