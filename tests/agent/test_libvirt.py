"""What failures of a guest's agent mean, by the few words libvirt has for them."""

from __future__ import annotations

import libvirt
import pytest

from kubeballoon.agent.hypervisor import AgentError, GoneError
from kubeballoon.agent.libvirt import _translate_agent


class FakeError(libvirt.libvirtError):  # type: ignore[misc]  # libvirt ships no types
    """An error as libvirt's own, without a connection that it is of."""

    def __init__(self, code: int, message: str) -> None:
        """Have this code and this text."""
        Exception.__init__(self, message)
        self.code = code

    def get_error_code(self) -> int:
        """The code."""
        return self.code


@pytest.mark.parametrize(
    ("code", "message", "reason"),
    [
        (86, "Guest agent is not responding: QEMU guest agent is not connected", "GuestAgentAbsent"),
        (74, "argument unsupported: QEMU guest agent is not configured", "GuestAgentAbsent"),
        (86, "Guest agent is not responding: Guest agent not available for now", "GuestAgentHung"),
        (68, "Timed out during operation: cannot acquire state change lock", "GuestAgentBusy"),
        (
            1,
            "unable to execute QEMU agent command 'guest-exec': The command guest-exec has been disabled",
            "GuestAgentRefused",
        ),
    ],
)
def test_a_failure_of_the_agent_has_a_reason_and_ends_no_connection(code: int, message: str, reason: str) -> None:
    error = _translate_agent(FakeError(code, message))
    assert isinstance(error, AgentError)
    assert error.reason == reason


def test_what_is_no_failure_of_the_agent_is_none() -> None:
    assert isinstance(_translate_agent(FakeError(libvirt.VIR_ERR_NO_DOMAIN, "no domain")), GoneError)
