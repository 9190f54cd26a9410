"""This module lists words that API, core and agent share: node states, policy modes, and an agent's actions.

What a word means for decisions is asked of the word, and answered for each of them: mypy refuses a new word until it is
said there.
"""

from __future__ import annotations

import enum
from typing import assert_never

UNRESPONSIVE = "Unresponsive"
"""The reason that agents, decisions and conditions give where a VM does not follow requests."""


DEFAULT_MINIMUM_PERCENT = 50
"""What a policy without a minimum guarantees, in percent of a VM's memory or processors."""


class NodeState(enum.StrEnum):
    """A node's state says how short of memory the node is.

    The four are the reclamation states of VMware ESX, which calls them high, soft, hard and low (Waldspurger, OSDI
    2002, section 6.3).
    """

    AMPLE = "Ample"
    TIGHT = "Tight"
    SCARCE = "Scarce"
    CRITICAL = "Critical"

    @property
    def severity(self) -> int:
        """The state's rank: 0 for Ample to 3 for Critical."""
        return _SEVERITY[self]

    @property
    def only_minimums_hold(self) -> bool:
        """Whether memory is so short that VMs are sure of nothing but their guaranteed minimums."""
        match self:
            case NodeState.AMPLE | NodeState.TIGHT:
                return False
            case NodeState.SCARCE | NodeState.CRITICAL:
                return True
        assert_never(self)


_SEVERITY = {state: rank for rank, state in enumerate(NodeState)}  # members stand in order of severity


class Mode(enum.StrEnum):
    """Whether the policy's decisions are carried out (Enforce), or only computed and reported (Observe)."""

    ENFORCE = "Enforce"
    OBSERVE = "Observe"

    @property
    def only_observes(self) -> bool:
        """Whether decisions are not carried out, so that nothing is requested of any VM."""
        match self:
            case Mode.ENFORCE:
                return False
            case Mode.OBSERVE:
                return True
        assert_never(self)


class RemedyMode(enum.StrEnum):
    """A RemedyMode says whether nodes are tainted, or VMs migrated.

    Enforce does so, Observe posts events that say what Enforce would do, and Off does neither.
    """

    OFF = "Off"
    OBSERVE = "Observe"
    ENFORCE = "Enforce"


class TaintEffect(enum.StrEnum):
    """Whether the scheduler avoids a node where others have room (PreferNoSchedule), or in any case (NoSchedule)."""

    PREFER_NO_SCHEDULE = "PreferNoSchedule"
    NO_SCHEDULE = "NoSchedule"


class Migratability(enum.StrEnum):
    """Whether a VM may be migrated while it runs (Migratable), or what rules that out.

    NotMigratable: KubeVirt cannot. External: the VM's evictionStrategy leaves that to another program.
    """

    MIGRATABLE = "Migratable"
    NOT_MIGRATABLE = "NotMigratable"
    EXTERNAL = "External"


class ReclaimWhen(enum.StrEnum):
    """When the policy reclaims: while not all VMs fit (Overcommitted), or once the node runs short (UnderPressure)."""

    OVERCOMMITTED = "Overcommitted"
    UNDER_PRESSURE = "UnderPressure"

    @property
    def waits_for_pressure(self) -> bool:
        """Whether nothing is reclaimed while the node is not short."""
        match self:
            case ReclaimWhen.OVERCOMMITTED:
                return False
            case ReclaimWhen.UNDER_PRESSURE:
                return True
        assert_never(self)


class ReclaimMethod(enum.StrEnum):
    """Balloon reclaims memory through the guest's balloon driver, GuestAgent through a program in the guest.

    Auto takes the program where there is no driver. Where nobody installed it Auto does what Balloon does, so it is the
    default.
    """

    BALLOON = "Balloon"
    GUEST_AGENT = "GuestAgent"
    AUTO = "Auto"


class WorkingSetReclaim(enum.StrEnum):
    """Whether memory that guests work with is reclaimed: where they can swap it out (IfSwappable), or Never."""

    IF_SWAPPABLE = "IfSwappable"
    NEVER = "Never"

    @property
    def allowed(self) -> bool:
        """Whether memory that a guest works with may be requested of it, provided that it can swap."""
        match self:
            case WorkingSetReclaim.IF_SWAPPABLE:
                return True
            case WorkingSetReclaim.NEVER:
                return False
        assert_never(self)


class SwapAbility(enum.StrEnum):
    """Whether a guest can swap: Able once it was seen to, Unable when it was asked to and did not, else Unknown."""

    UNKNOWN = "Unknown"
    ABLE = "Able"
    UNABLE = "Unable"

    @property
    def may_swap(self) -> bool:
        """Whether the guest can swap, or was never seen to be unable to."""
        match self:
            case SwapAbility.UNKNOWN | SwapAbility.ABLE:
                return True
            case SwapAbility.UNABLE:
                return False
        assert_never(self)


class AgentAction(enum.StrEnum):
    """An AgentAction is what a node's agent does about a VM.

    Follows: it carries the request out, or goes on trying to; without a request it gives the VM everything the VM was
    given by its owner. Holds: it leaves the VM as it is. ReturnsAll: it gives the VM everything, whatever is requested.
    """

    FOLLOWS = "Follows"
    HOLDS = "Holds"
    RETURNS_ALL = "ReturnsAll"
