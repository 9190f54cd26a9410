"""A node in one process: model guests, driven by the agent's own memory workers and the core's own decisions.

``ModelGuest`` models a guest, ``ClosedLoop`` a node. Nothing here decides about memory, and nothing waits: time passes
in steps.
"""

from __future__ import annotations

from .loop import EVICTION_THRESHOLD, ClosedLoop, memory_policy
from .model_guest import OVERHEAD, ModelGuest, constant, ramp

__all__ = ["EVICTION_THRESHOLD", "OVERHEAD", "ClosedLoop", "ModelGuest", "constant", "memory_policy", "ramp"]
