"""What the guest lab's users see when it cannot do what they ask."""

from __future__ import annotations


class LabError(Exception):
    """One clear line: what is missing, refused or late."""


class DeadlineError(LabError):
    """Something did not answer in time; nothing is known about its effect."""


class GuestKilledError(LabError):
    """The guest's out-of-memory killer took the load while it carried out a command."""
