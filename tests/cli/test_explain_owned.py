"""``explain`` for somebody who may read a VM and its events, and nothing else."""

from __future__ import annotations

import io

from kubeballoon.cli.explain_owned import OwnedExplanation, explain_owned, print_owned
from kubeballoon.cli.output import Output
from kubeballoon.cli.vm_events import VMEvent

REFUSAL = "GET /apis/kubeballoon.io/v1alpha1/memorypolicies: forbidden"
EVENT = VMEvent(at="2026-11-26T14:00:00.123456Z", reason="MemoryReclaimed", note="1 GiB reclaimed")


def instance(**annotations: str) -> dict[str, object]:
    notes = {f"kubeballoon.io/{name.replace('_', '-')}": value for name, value in annotations.items()}
    return {
        "metadata": {"namespace": "shop", "name": "web", "uid": "1", "annotations": notes},
        "spec": {"domain": {"memory": {"guest": "4Gi"}}},
        "status": {"nodeName": "worker-1"},
    }


def printed(explanation: OwnedExplanation) -> str:
    stream = io.StringIO()
    print_owned(explanation, Output(None, stream, colours=False))
    return stream.getvalue()


def test_a_vm_is_explained_by_its_own_annotations_and_events() -> None:
    notes = {"memory_target": "3Gi", "memory_min": "2Gi", "policy": "default", "reason": "idle memory is reclaimed"}
    explanation = explain_owned(instance(**notes), [EVENT], REFUSAL)
    assert (explanation.size, explanation.target, explanation.min) == (4 << 30, 3 << 30, 2 << 30)
    text = printed(explanation)
    assert text.startswith("shop/web on node worker-1\nidle memory is reclaimed\n")
    assert "1 GiB reclaimed" in text
    assert f"because {REFUSAL}" in text


def test_a_vm_without_a_request_may_use_all_of_its_memory() -> None:
    assert "Nothing is requested of it" in printed(explain_owned(instance(), [], REFUSAL))
    assert "Its owner excludes it" in printed(explain_owned(instance(exclude="true"), [], REFUSAL))


def test_an_annotation_that_cannot_be_read_is_left_out() -> None:
    explanation = explain_owned(instance(memory_target="lots", processor_target="2"), [], REFUSAL)
    assert (explanation.target, explanation.processor_target) == (None, 2)


def test_what_its_annotations_say_controls_no_terminal() -> None:
    explanation = explain_owned(instance(memory_target="1Gi", reason="\x1b[2Jhello\nworld"), [], REFUSAL)
    assert "[2Jhello world" in printed(explanation).splitlines()
