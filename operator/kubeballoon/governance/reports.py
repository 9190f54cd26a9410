"""This module says how long controller, agent and CLI go by a node's last report."""

from __future__ import annotations

SILENT_AFTER = 180.0  # seconds: an agent reports every 60, so three reports are missing when its node stands still
