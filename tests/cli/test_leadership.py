"""The controller that leads, as ``status`` finds it in Leases."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from kubeballoon.cli.status import leadership

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def lease(holder: str, renewed: str) -> dict[str, object]:
    return {"spec": {"holderIdentity": holder, "renewTime": renewed, "leaseDurationSeconds": 15}}


LEADS = lease("pod_1", "2025-12-31T23:59:50.000000Z")
UNINSTALLS = lease("uninstall_pod_3", "2026-01-01T00:00:00Z")
DEAD = lease("pod_2", "2025-12-31T23:50:00.000000Z")


@pytest.mark.parametrize(
    ("leases", "leader", "fault"),
    [
        ([LEADS], "pod_1", None),
        ([DEAD, LEADS], "pod_1", None),
        ([LEADS, UNINSTALLS], "pod_1", None),
        ([lease("pod_1", "2025-12-31T23:59:00Z")], "pod_1", None),  # our clock may be a minute fast
        ([DEAD], None, "no controller leads: pod_2 did 600s ago, and requests stand still"),
        ([lease("", "2025-12-31T23:59:30Z")], None, "no controller leads: the last one ended 30s ago"),
        ([DEAD, UNINSTALLS], None, "an uninstallation gives everything back"),
        ([], None, "no controller has led yet: does one run?"),
    ],
)
def test_status_says_who_leads_or_why_nobody_does(
    leases: list[dict[str, object]], leader: str | None, fault: str | None
) -> None:
    found = leadership(leases, NOW)
    assert found.leader == leader
    assert found.fault is None if fault is None else fault in (found.fault or "")
