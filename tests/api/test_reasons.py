"""Every reason that an agent may give is documented, and says what the agent does."""

from __future__ import annotations

import re

import pytest
from pydantic import ValidationError

from hack.generate_docs import REFERENCE, render_reasons
from kubeballoon.api.reasons import AgentReason
from kubeballoon.api.v1alpha1 import VirtualMachineReport


@pytest.mark.parametrize("reason", AgentReason)
def test_the_reference_lists_the_reason_and_what_the_agent_does(reason: AgentReason) -> None:
    row = f"| `{reason.value}` | {reason.memory.value} | {reason.processors.value} | {reason.meaning} |"
    assert row in REFERENCE.read_text().splitlines(), f"run `make generate`: the reference lacks the row {row}"


def test_the_reference_lists_no_other_reason() -> None:
    assert render_reasons() in REFERENCE.read_text()
    listed = re.findall(r"^\| `(\w+)` \| \w+ \| \w+ \|", render_reasons(), re.MULTILINE)
    assert listed == [reason.value for reason in AgentReason]


@pytest.mark.parametrize("reason", AgentReason)
def test_a_reason_is_one_word_that_a_condition_could_have(reason: AgentReason) -> None:
    assert re.fullmatch(r"[A-Z][A-Za-z0-9]*", reason.value)
    assert reason.meaning.strip()


def test_only_a_word_can_be_a_reason() -> None:
    vm = {"uid": "u", "namespace": "n", "name": "v", "size": 1}
    newer = VirtualMachineReport.model_validate({**vm, "reason": "SomethingNewer"})
    assert newer.reason is AgentReason.UNKNOWN
    with pytest.raises(ValidationError):
        VirtualMachineReport.model_validate({**vm, "reason": 5})
