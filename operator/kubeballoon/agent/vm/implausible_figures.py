"""This module notices figures of a VM's memory that cannot be true, whoever made them up: its guest or its launcher."""

from __future__ import annotations

from dataclasses import dataclass

from kubeballoon.agent.hypervisor.domain_xml import LARGEST_KIB
from kubeballoon.agent.vm.vmi import Instance
from kubeballoon.agent.vm_problem import Problem
from kubeballoon.api.reasons import AgentReason
from kubeballoon.core.formatting import human
from kubeballoon.core.units import GIB

# From here on a figure is a lie. A VM may honestly have a little more than its object says, because memory comes in
# pages, MiB, virtio-mem blocks (512 MiB at the most) or hugepages (1 GiB at the most); a smaller lie gains nothing.
_TOLERANCE = GIB
_NAMED_FOR = 60.0  # seconds: a VM that lies now and then would else cause a report, and an event, each time


@dataclass(slots=True)
class FigureCheck:
    """A FigureCheck remembers the last figure of a VM that cannot be true.

    It has no effect but that the VM is named: all figures are bounded wherever they are used.
    """

    _problem: Problem | None = None
    _until: float = 0.0  # seconds

    def check(self, vm: Instance, claimed: int, now: float) -> Problem | None:
        """Return why a VM is named at ``now`` seconds; None if it need not be.

        Args:
            vm: the VM as its object says.
            claimed: the largest amount of memory that its guest or its launcher says it has or uses, bytes.
            now: monotonic seconds.
        """
        most = vm.most or LARGEST_KIB * 1024
        if claimed > most + _TOLERANCE:
            words = f"its launcher or guest claims {human(claimed)}, and it has {human(most)} at the most"
            if self._problem is None or now >= self._until:
                self._problem = Problem(AgentReason.IMPLAUSIBLE_FIGURES, f"{words}: no more than its size counts")
            self._until = now + _NAMED_FOR
        return self._problem if now < self._until else None
