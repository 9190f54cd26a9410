"""SCENES: the scenes that `make demo SCENE=NAME` can play."""

from __future__ import annotations

from typing import Any

from hack.demo.cluster_scene import ClusterScene
from hack.demo.guest_agent_scene import GuestAgentScene
from hack.demo.memory_scene import MemoryScene
from hack.demo.processor_scenes import ProcessorsScene, UnplugScene
from hack.demo.scene import Scene

DEFAULT = "memory"
SCENES: dict[str, type[Scene[Any]]] = {
    DEFAULT: MemoryScene,
    "processors": ProcessorsScene,
    "unplug": UnplugScene,
    "guest-agent": GuestAgentScene,
    "cluster": ClusterScene,
}
"""The classes of the scenes by name."""
