"""A guest lab: real guests under real libvirt daemons, on a node of limited memory, without a container engine."""

from .errors import DeadlineError, GuestKilledError, LabError
from .load import Fill, GuestLoad, LoadReport
from .node import LabNode
from .objects import node_object, vmi_object
from .pod import LauncherPod
from .spec import MIB, GuestSpec

__all__ = [
    "MIB",
    "DeadlineError",
    "Fill",
    "GuestKilledError",
    "GuestLoad",
    "GuestSpec",
    "LabError",
    "LabNode",
    "LauncherPod",
    "LoadReport",
    "node_object",
    "vmi_object",
]
