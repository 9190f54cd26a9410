"""This module lists the reasons that a node's agent reports of a VM, and what the agent does about the VM for each."""

from __future__ import annotations

from enum import StrEnum
from typing import Self

from kubeballoon import vocabulary
from kubeballoon.vocabulary import AgentAction

_FOLLOWS, _HOLDS, _RETURNS_ALL = AgentAction.FOLLOWS, AgentAction.HOLDS, AgentAction.RETURNS_ALL


class AgentReason(StrEnum):
    """An AgentReason says in one word why a VM has something else than is requested of it.

    Each member also says what the agent does about the VM while the reason holds. The controller plans the node's
    memory by that, so it is written here, beside the reason, and nowhere else. An agent that goes on trying in vain
    follows: ``processors_stay`` says whether anything comes of it.

    Attributes:
        memory: what the agent does about the VM's memory.
        processors: what the agent does about the VM's processors.
        meaning: the reason for a person, a whole clause.
    """

    memory: AgentAction
    processors: AgentAction
    meaning: str

    def __new__(cls, value: str, memory: AgentAction, processors: AgentAction, meaning: str) -> Self:
        """Make a member of its word, the agent's two actions, and the meaning."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.memory, member.processors, member.meaning = memory, processors, meaning
        return member

    @classmethod
    def _missing_(cls, value: object) -> AgentReason | None:
        """Read a newer agent's word as UNKNOWN, so that one new reason does not make a whole node's report unreadable.

        Anything but a word stays an error.
        """
        return cls.UNKNOWN if isinstance(value, str) else None

    @property
    def connection_lost(self) -> bool:
        """Whether the agent cannot reach the VM's hypervisor, so that nothing is known of the VM at present."""
        return self in (
            AgentReason.HUNG,
            AgentReason.UNREACHABLE,
            AgentReason.SOCKET_REFUSED,
            AgentReason.DAEMON_GARBLED,
        )

    @property
    def is_offence(self) -> bool:
        """Whether a guest, launcher or object that is honest hardly causes it: administrators are told of the VM."""
        return self in (
            AgentReason.SOCKET_REFUSED,
            AgentReason.DAEMON_GARBLED,
            AgentReason.GUEST_AGENT_GARBLED,
            AgentReason.IMPLAUSIBLE_FIGURES,
            AgentReason.BAD_REPORT,
        )

    @property
    def may_follow(self) -> bool:
        """Whether a VM may follow requests all the same: its driver is there, or was a moment ago."""
        return self in (AgentReason.STATISTICS_STALE, AgentReason.IMPLAUSIBLE_FIGURES)

    @property
    def no_reclaim_method(self) -> bool:
        """Whether the VM has neither a balloon nor a guest that can run the guest program: it cannot be ballooned."""
        return self in (AgentReason.NO_BALLOON, AgentReason.GUEST_UNSUPPORTED)

    @property
    def is_passing(self) -> bool:
        """Whether the VM cannot follow requests for a while, though nothing is wrong with it."""
        return self in (
            AgentReason.MIGRATING,
            AgentReason.PAUSED,
            AgentReason.MEMORY_HOTPLUG,
            AgentReason.METHOD_CHANGING,
        )

    @property
    def guest_agent_answers(self) -> bool:
        """Whether the guest agent is there and answers, though not with what it was asked for."""
        return self in (AgentReason.GUEST_AGENT_REFUSED, AgentReason.GUEST_AGENT_GARBLED)

    @property
    def processors_stay(self) -> bool:
        """Whether a VM's processors stay as they are, because the agent holds them or because what it tries fails."""
        return self.processors is _HOLDS or self in (
            AgentReason.GUEST_AGENT_ABSENT,
            AgentReason.GUEST_AGENT_HUNG,
            AgentReason.GUEST_AGENT_BUSY,
            AgentReason.GUEST_AGENT_REFUSED,
            AgentReason.GUEST_AGENT_GARBLED,
            AgentReason.NOT_FOLLOWING,
            # These two are given of a VM's memory alone. Of a VM that does not answer nothing is expected.
            AgentReason.UNRESPONSIVE,
            AgentReason.NO_BALLOON,
        )

    # Follows: without a request such a VM counts as its whole size, which its agent may be giving it for that reason.
    UNKNOWN = (
        "Unknown",
        _FOLLOWS,
        _HOLDS,
        "the agent is of a newer version and gives a reason that this version does not know",
    )

    # How KubeVirt or the VM's owner set the VM up; such a VM is not ballooned at all.
    HUGEPAGES = "Hugepages", _RETURNS_ALL, _FOLLOWS, "its memory is hugepages, which a balloon does not give back"
    DEDICATED_CPU = "DedicatedCPU", _RETURNS_ALL, _HOLDS, "it has dedicated CPUs"
    REALTIME = "Realtime", _RETURNS_ALL, _HOLDS, "it is a realtime VM"
    NUMA_PASSTHROUGH = "NUMAPassthrough", _RETURNS_ALL, _HOLDS, "its NUMA topology is passed through"
    VFIO = "VFIO", _RETURNS_ALL, _FOLLOWS, "a device passed through pins its memory, so a balloon frees nothing"
    MEMORY_LOCKED = "MemoryLocked", _RETURNS_ALL, _FOLLOWS, "its memory is locked"
    LAUNCH_SECURITY = "LaunchSecurity", _RETURNS_ALL, _FOLLOWS, "its memory is encrypted"
    GUARANTEED = (
        "Guaranteed",
        _RETURNS_ALL,
        _FOLLOWS,
        "its pod is of QoS class Guaranteed: all its memory is promised to it",
    )

    # A passing state of the VM.
    MIGRATING = "Migrating", _HOLDS, _HOLDS, "it is migrating"
    PAUSED = "Paused", _HOLDS, _HOLDS, "it is paused"
    MEMORY_HOTPLUG = "MemoryHotplug", _RETURNS_ALL, _FOLLOWS, "its memory is being resized"

    # Faults that keep the agent from moving the VM's memory.
    BAD_REQUEST = "BadRequest", _HOLDS, _HOLDS, "one of its annotations cannot be read"
    HUNG = "Hung", _HOLDS, _HOLDS, "a call to its libvirt daemon has not returned in time"
    UNREACHABLE = "Unreachable", _HOLDS, _HOLDS, "its libvirt daemon cannot be reached"
    SOCKET_REFUSED = "SocketRefused", _HOLDS, _HOLDS, "a link stands in place of its libvirt daemon's socket"
    DAEMON_GARBLED = "DaemonGarbled", _HOLDS, _HOLDS, "its libvirt daemon's answer cannot be understood"
    UNRESPONSIVE = vocabulary.UNRESPONSIVE, _HOLDS, _FOLLOWS, "its balloon driver does not follow requests"
    NO_BALLOON = "NoBalloon", _HOLDS, _FOLLOWS, "its libvirt domain has no balloon"
    NO_DRIVER = "NoDriver", _FOLLOWS, _FOLLOWS, "its guest has no balloon driver, or one that has never reported"
    STATISTICS_STALE = "StatisticsStale", _FOLLOWS, _FOLLOWS, "its balloon driver has stopped reporting"
    BALLOON_INEFFECTIVE = (
        "BalloonIneffective",
        _RETURNS_ALL,
        _FOLLOWS,
        "its balloon takes memory from the guest and frees none on the node",
    )
    IMPLAUSIBLE_FIGURES = (
        "ImplausibleFigures",
        _FOLLOWS,
        _FOLLOWS,
        "its launcher or guest claims more memory than it can have; no more than its size counts",
    )
    BAD_REPORT = "BadReport", _FOLLOWS, _FOLLOWS, "its figures do not fit into a report"

    # The program in the guest, and the guest agent through which the node's agent reaches it.
    METHOD_CHANGING = (
        "MethodChanging",
        _RETURNS_ALL,
        _FOLLOWS,
        "what one method reclaimed is given back before the other reclaims anything",
    )
    GUEST_UNSUPPORTED = "GuestUnsupported", _FOLLOWS, _FOLLOWS, "the guest program does not run on such a guest"
    GUEST_PROGRAM_ABSENT = "GuestProgramAbsent", _FOLLOWS, _FOLLOWS, "the guest program does not run in its guest"
    GUEST_AGENT_ABSENT = "GuestAgentAbsent", _FOLLOWS, _FOLLOWS, "its guest runs no QEMU guest agent"
    GUEST_AGENT_HUNG = "GuestAgentHung", _FOLLOWS, _FOLLOWS, "its guest agent does not answer in time"
    GUEST_AGENT_BUSY = "GuestAgentBusy", _FOLLOWS, _FOLLOWS, "its guest agent is busy with another client"
    GUEST_AGENT_REFUSED = "GuestAgentRefused", _FOLLOWS, _FOLLOWS, "its guest agent refuses a command"
    GUEST_AGENT_GARBLED = "GuestAgentGarbled", _FOLLOWS, _FOLLOWS, "its guest agent's answer cannot be understood"
    INTERNAL_ERROR = (
        "InternalError",
        _HOLDS,
        _HOLDS,
        "the agent failed while it looked after this VM",
    )

    # Processors alone.
    NOT_FOLLOWING = (
        "NotFollowing",
        _FOLLOWS,
        _FOLLOWS,
        "its guest uses as many processors as before, whatever is requested",
    )
    UNPLUG_LOST = (
        "UnplugLost",
        _FOLLOWS,
        _FOLLOWS,
        "libvirt did not hear that processors were unplugged: the guest agent takes over",
    )
    UNPLUG_REFUSED = (
        "UnplugRefused",
        _FOLLOWS,
        _FOLLOWS,
        "its guest did not give a processor up: the guest agent takes over",
    )
    NOT_REMOVABLE = "NotRemovable", _FOLLOWS, _FOLLOWS, "its processors cannot be unplugged: the guest agent takes over"
    NOT_OFFLINABLE = "NotOfflinable", _FOLLOWS, _FOLLOWS, "its guest offers no more processors to reclaim"
