"""A timing with which an agent of fakes does in milliseconds what takes seconds on a node."""

from __future__ import annotations

from kubeballoon.agent.wait_times import GuestAgentTiming, GuestTiming, MemoryTiming, NodeTiming, Timing
from kubeballoon.core.backoff import Backoff

QUICK = Timing(
    node=NodeTiming(
        guard_interval=0.01,
        check_interval=0.01,
        settle=0.01,
        first_settle=0.01,
        moved_floor=0.01,
        drift_floor=0.01,
        retry=Backoff(shortest=0.01, longest=0.02),
    ),
    memory=MemoryTiming(poll=0.02, longest_poll=0.02, moving_poll=0.01, reconnect=Backoff(shortest=0.02, longest=0.02)),
    guest=GuestTiming(poll=0.01, idle_poll=0.01, moving_poll=0.01, reconnect=Backoff(shortest=0.01, longest=0.01)),
    guest_agent=GuestAgentTiming(exec_poll=0.0),
)
