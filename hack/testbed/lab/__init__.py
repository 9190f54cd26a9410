"""A guest lab: real guests under real libvirt daemons, on nodes of limited memory, without a container engine."""

from .errors import DeadlineError, GuestKilledError, LabError
from .guest_load import Fill, GuestLoad, LoadReport
from .guest_spec import MIB, GuestSpec
from .kubernetes_objects import node_object, vmi_object
from .lab_node import LabNode
from .launcher_pod import LauncherPod

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
