"""This module says how long controller, agent and CLI go by a node's last report."""

from __future__ import annotations

SILENT_AFTER = 180.0  # seconds: agents report every 60, so three reports in a row are missing
