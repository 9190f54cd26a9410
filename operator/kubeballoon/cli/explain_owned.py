"""This module explains a VM to its owner, who may read the VM and its namespace's events, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pydantic import Field

from kubeballoon.api import names
from kubeballoon.api.meta import ApiModel
from kubeballoon.api.quantity import parse_quantity
from kubeballoon.cli.output import Output, format_bytes
from kubeballoon.cli.table import Cell, Column, Style, number
from kubeballoon.cli.vm_events import VMEvent, print_events
from kubeballoon.cluster.errors import Object

_UNSEEN = (
    "what its balloon leaves it now, what its guest needs, and whether the guest follows",
    "the state of its node, and what other VMs there have",
    "the policy's shares and headroom, so why the VM has not more or less",
)


class OwnedExplanation(ApiModel):
    """An OwnedExplanation says of a VM what its own object says, bytes; fields that are not known are left out.

    Attributes:
        excluded: whether its owner excludes it.
        processor_target: how many processors it may use now.
        unseen: what only somebody with more rights can see, and why.
    """

    namespace: str
    name: str
    node: str | None = None
    size: int | None = None
    target: int | None = None
    min: int | None = None
    policy: str | None = None
    reason: str | None = None
    method: str | None = None
    excluded: bool
    processor_target: int | None = None
    processor_policy: str | None = None
    processor_reason: str | None = None
    changes: list[VMEvent] = Field(default_factory=list)
    unseen: list[str]


def explain_owned(instance: Object, changes: Sequence[VMEvent], refusal: str) -> OwnedExplanation:
    """Explain a VM by its own annotations and events.

    Args:
        instance: the VirtualMachineInstance.
        changes: the controller's latest events about it.
        refusal: what the API server refused to show.
    """
    metadata, status = instance["metadata"], instance.get("status", {})
    notes: Mapping[str, str] = metadata.get("annotations") or {}
    processors = _quantity(notes.get(names.PROCESSOR_TARGET))
    return OwnedExplanation(
        namespace=metadata["namespace"],
        name=metadata["name"],
        node=status.get("nodeName"),
        size=_size(instance),
        target=_quantity(notes.get(names.MEMORY_TARGET)),
        min=_quantity(notes.get(names.MEMORY_MIN)),
        policy=notes.get(names.POLICY),
        reason=notes.get(names.REASON),
        method=notes.get(names.MEMORY_METHOD),
        excluded=notes.get(names.EXCLUDE) == "true",
        processor_target=processors,
        processor_policy=notes.get(names.PROCESSOR_POLICY),
        processor_reason=notes.get(names.PROCESSOR_REASON),
        changes=list(changes),
        unseen=[*_UNSEEN, f"because {refusal}"],
    )


def _size(instance: Object) -> int | None:
    """Find the memory that the VM was given: what its guest has now, or else what its spec says."""
    memory = (instance.get("status") or {}).get("memory") or {}
    domain = (instance.get("spec") or {}).get("domain") or {}
    requests = (domain.get("resources") or {}).get("requests") or {}
    for value in (memory.get("guestCurrent"), (domain.get("memory") or {}).get("guest"), requests.get("memory")):
        if (found := _quantity(value)) is not None:
            return found
    return None


def _quantity(value: object) -> int | None:
    """Read a quantity; None where there is none, or none that can be read."""
    try:
        return parse_quantity(value) if isinstance(value, str | int) else None
    except ValueError:
        return None


def print_owned(explanation: OwnedExplanation, output: Output) -> None:
    """Print the explanation, and what it leaves out."""
    full_name = f"{explanation.namespace}/{explanation.name}"
    where = "runs nowhere yet" if explanation.node is None else f"on node {explanation.node}"
    output.print_line(Cell(full_name, Style.STRONG), f" {where}")
    output.print_line(_summary(explanation))
    output.print_line()
    output.print_table([Column("MEMORY"), number(""), Column("")], list(_rows(explanation)), headers=True)
    if explanation.processor_target is not None:
        output.print_line()
        output.print_line(
            f"It may use {explanation.processor_target} processors: {explanation.processor_reason or '-'}"
        )
    print_events(explanation.changes, output)
    output.print_bullets("What you may not see", explanation.unseen)


def _summary(explanation: OwnedExplanation) -> str:
    if explanation.excluded:
        return f"Its owner excludes it by {names.EXCLUDE}, if its policy allows that."
    if explanation.target is None:
        return "Nothing is requested of it: it may use all of its memory."
    return explanation.reason or "The controller has written no reason."


def _rows(explanation: OwnedExplanation) -> Iterator[tuple[str, str, str]]:
    requested = "nothing is requested" if explanation.target is None else "what it may use now"
    yield "size", format_bytes(explanation.size), "what the VM was given"
    yield "target", format_bytes(explanation.target), requested
    yield "min", format_bytes(explanation.min), "guaranteed whatever happens"
    if explanation.policy is not None:
        yield "policy", explanation.policy, "the MemoryPolicy that governs it"
