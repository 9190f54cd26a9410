"""Words that the API, the core and the agent share: node states, policy modes, and what an agent does about a VM."""

from __future__ import annotations

import enum


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
        return self in (NodeState.SCARCE, NodeState.CRITICAL)


_SEVERITY = {state: rank for rank, state in enumerate(NodeState)}


class Mode(enum.StrEnum):
    """Enforce carries a policy's decisions out; Observe computes and reports them, and changes nothing."""

    ENFORCE = "Enforce"
    OBSERVE = "Observe"


class ReclaimWhen(enum.StrEnum):
    """Overcommitted keeps VMs' targets within the node's capacity; UnderPressure waits for the node to run short."""

    OVERCOMMITTED = "Overcommitted"
    UNDER_PRESSURE = "UnderPressure"


class ReclaimMethod(enum.StrEnum):
    """Balloon reclaims memory through the guest's balloon driver, GuestAgent through a program in the guest.

    Auto takes the program where there is no driver. Where nobody installed it Auto does what Balloon does, so it is the
    default.
    """

    BALLOON = "Balloon"
    GUEST_AGENT = "GuestAgent"
    AUTO = "Auto"


class AgentAction(enum.StrEnum):
    """AgentAction says what a node's agent does about a VM.

    It FOLLOWS the request, and without one gives the VM all it was given; it HOLDS the VM exactly as it is; or it
    RETURNS_ALL to the VM, whatever is requested.
    """

    FOLLOWS = "Follows"
    HOLDS = "Holds"
    RETURNS_ALL = "ReturnsAll"
