"""This module leaves plugged memory out of account that a guest has offline, and so does not use.

Memory that KubeVirt hotplugs may stay offline: then the guest's kernel does not manage it, and the guest can neither
use it nor give any of it up. If it counted as held, the guest would seem to work with all of it, and would be asked to
give up what it needs in its place.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace

from kubeballoon.agent.hypervisor.protocols import DomainSample, MemoryControl
from kubeballoon.core.formatting import human
from kubeballoon.core.memory.demand import BalloonCalibration
from kubeballoon.core.units import MIB

_log = logging.getLogger(__name__)

# Bytes of its boot memory that a guest's kernel may keep from its own management: code, a crash kernel (up to 256 MiB
# in most guests), and 1/64 for page descriptors, doubled for safety. What a guest lacks beyond that is offline.
_KERNEL_OWN = 320 * MIB
_KERNEL_OWN_PART = 32
_DESCRIPTORS_PART = 64  # this part of plugged memory holds its page descriptors
_BLOCK = 128 * MIB  # Linux brings memory online in blocks of this size or larger ones


class OnlineMemoryControl:
    """An OnlineMemoryControl is a connection to a VM to whose size only memory counts that its guest brought online."""

    def __init__(self, control: MemoryControl, domain: str, clock: Callable[[], float] = time.time) -> None:
        """Pass calls on to ``control``, the real connection to the VM ``domain``; ``clock`` tells the time of day."""
        self._control = control
        self._domain = domain
        self._clock = clock
        self._calibration = BalloonCalibration()
        self._offline = 0  # bytes, by the last sample

    async def sample(self) -> DomainSample:
        """Read the VM's memory and state.

        Raises:
            HypervisorError: the VM cannot be reached, or did not answer in time.
        """
        real = await self._control.sample()
        self._calibration = self._calibration.observe(real.statistics, real.size, self._clock())
        offline = offline_memory(real, self._calibration)
        if offline != self._offline:
            _log.info("%s: its guest has %s of its plugged memory offline", self._domain, human(offline))
        self._offline = offline
        statistics = real.statistics._replace(actual=max(0, real.statistics.actual - offline))
        return replace(real, size=real.size - offline, plugged=real.plugged - offline, statistics=statistics)

    async def set_memory(self, size: int) -> None:
        """Ask the guest's driver to leave the guest ``size`` bytes that it can use.

        Raises:
            HypervisorError: the VM cannot be reached, or did not answer in time.
        """
        await self._control.set_memory(size + self._offline)

    async def set_statistics_period(self, seconds: int) -> None:
        """Have the guest report its statistics every ``seconds`` seconds.

        Raises:
            HypervisorError: the VM cannot be reached, or did not answer in time.
        """
        await self._control.set_statistics_period(seconds)

    def close(self) -> None:
        """Close the connection, without waiting for that."""
        self._control.close()


def offline_memory(sample: DomainSample, calibration: BalloonCalibration) -> int:
    """Find how much plugged memory a guest has offline, at least, in bytes.

    It is told from what the guest's kernel manages (MemTotal, without what the balloon holds of it). How much of the
    boot memory the kernel keeps for itself is not known, so plugged memory that is less than it may keep is online.

    Args:
        sample: the VM with all of its plugged memory.
        calibration: what the balloon's movements showed of the same samples.
    """
    boot, available = sample.size - sample.plugged, sample.statistics.available
    kernel_own = _KERNEL_OWN + boot // _KERNEL_OWN_PART
    if available is None or sample.plugged <= kernel_own:
        return 0
    managed = calibration.full_available
    if managed is None:
        managed = available if calibration.autodeflate else available + sample.size - sample.statistics.actual
    if managed <= boot:
        return sample.plugged
    missing = sample.size - managed - kernel_own - sample.plugged // _DESCRIPTORS_PART
    return max(0, missing) // _BLOCK * _BLOCK
