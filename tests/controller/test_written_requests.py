"""How long a VM's target has been what it is, as far as a controller knows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kubeballoon.api.v1alpha1 import VirtualMachineReport
from kubeballoon.controller.written_requests import WrittenRequests
from kubeballoon.core.decision_reason import TargetChange
from kubeballoon.core.units import GIB
from kubeballoon.governance.policy_types import MEMORY
from kubeballoon.governance.targets_in_force import VMRequest

NOTHING, TWO, THREE = VMRequest(), VMRequest(2 * GIB, GIB, "p"), VMRequest(3 * GIB, GIB, "p")


@pytest.fixture
def written() -> WrittenRequests:
    return WrittenRequests(MEMORY.reported_request)


def reported(request: VMRequest) -> VirtualMachineReport:
    figures = {"size": 4 * GIB, "target": request.target, "min": request.minimum, "policy": request.policy}
    return VirtualMachineReport.model_validate({"uid": "vm", "namespace": "default", "name": "vm"} | figures)


def change(written: WrittenRequests, now: float) -> TargetChange | None:
    found = written.last_requests("node", [reported(TWO)], now)
    return found["vm"].change if found else None


def test_a_target_that_was_set_once_and_never_moved_has_an_age(written: WrittenRequests) -> None:
    assert change(written, 5) is None
    written.record("node", "vm", NOTHING, TWO, 10)
    assert change(written, 70) == TargetChange(up=None, age=60)
    written.record("node", "vm", TWO, replace(TWO, policy="another"), 80)
    assert change(written, 100) == TargetChange(up=None, age=90), "another policy is no move"
    written.record("node", "vm", TWO, THREE, 110)
    assert change(written, 111) == TargetChange(up=True, age=1)


def test_a_target_that_somebody_else_wrote_has_no_age_that_is_known(written: WrittenRequests) -> None:
    written.reconcile("node", reported(TWO), 1000)
    assert change(written, 1090) is None


def test_the_age_of_a_target_is_that_on_its_present_node(written: WrittenRequests) -> None:
    written.record("other", "vm", THREE, TWO, 10)
    assert change(written, 11) is None
