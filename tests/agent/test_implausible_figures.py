"""A figure of a VM's memory that cannot be true names the VM, and costs nobody anything."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from hack.testbed.lab.fakes import FakeMemoryControl
from kubeballoon.agent.hypervisor.protocols import DomainSample
from kubeballoon.agent.vm.implausible_figures import FigureCheck
from kubeballoon.agent.vm.vmi import Instance, read_instance
from kubeballoon.api.reasons import AgentReason
from tests.agent.test_memory_worker import MIB, instance, until, working
from tests.agent.test_vmi import vmi

pytestmark = pytest.mark.usefixtures("sockets")

GIB = 1 << 30


def resized(**memory: str) -> Instance:
    made = vmi()
    spec, status = made["spec"]["domain"].setdefault("memory", {}), made["status"].setdefault("memory", {})
    spec |= {"guest": "1Gi"}
    (spec if "maxGuest" in memory else status).update(memory)
    found = read_instance(made, "here")
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("vm", "claimed"),
    [
        (resized(), 0),
        (resized(), GIB + 4096),
        (resized(), 2 * GIB),
        (resized(maxGuest="8Gi"), 8 * GIB),
        (resized(guestCurrent="6Gi"), 6 * GIB),
        (resized(guestAtBoot="4Gi"), 4 * GIB),
        (resized(guestRequested="3Gi"), 3 * GIB),
        (replace(resized(), size=0, most=0), 1 << 50),
    ],
    ids=["nothing", "a page above", "a hugepage above", "to grow", "shrinking", "shrunk", "growing", "size unknown"],
)
def test_a_figure_that_an_honest_vm_may_have_names_nobody(vm: Instance, claimed: int) -> None:
    assert FigureCheck().check(vm, claimed, 1.0) is None


@pytest.mark.parametrize(
    ("vm", "claimed"),
    [(resized(), 2 * GIB + 1), (resized(maxGuest="8Gi"), 100 * GIB), (replace(resized(), size=0, most=0), 1 << 64)],
    ids=["above a hugepage", "far above what it may grow to", "above what any machine has"],
)
def test_a_figure_that_cannot_be_true_names_the_vm_for_a_minute(vm: Instance, claimed: int) -> None:
    check = FigureCheck()
    named = check.check(vm, claimed, 100.0)
    assert named is not None
    assert named.reason is AgentReason.IMPLAUSIBLE_FIGURES
    assert check.check(vm, 0, 159.0) == named
    assert check.check(vm, claimed * 2, 159.0) == named, "no report for each new figure"
    assert check.check(vm, 0, 218.0) == named
    assert check.check(vm, 0, 220.0) is None


@dataclass
class Claiming(FakeMemoryControl):
    """A VM whose launcher or guest claims some memory."""

    claimed: int = 0

    async def sample(self) -> DomainSample:
        """Read the memory, with the claim."""
        return replace(await super().sample(), claimed=self.claimed)


async def test_a_vm_that_is_named_for_its_figures_follows_as_any_other() -> None:
    control = Claiming(claimed=100 * GIB)
    async with working(instance(target=512 * MIB, most=GIB), control) as worker:
        await until(lambda: control.actual == 512 * MIB and worker.view.need is not None)
        assert worker.view.problem is not None
        assert worker.view.problem.reason is AgentReason.IMPLAUSIBLE_FIGURES
        assert "claims 100 GiB, and it has 1 GiB at the most" in worker.view.problem.message
        assert worker.view.responsive
