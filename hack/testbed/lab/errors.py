"""The errors that the guest lab raises."""

from __future__ import annotations


class LabError(Exception):
    """The lab cannot do what was requested; the message is one line."""


class DeadlineError(LabError):
    """A call did not return in time; it may still take effect."""


class GuestKilledError(LabError):
    """The guest's out-of-memory killer killed the load generator during a command."""
