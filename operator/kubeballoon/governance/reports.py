"""How long a node's report holds."""

from __future__ import annotations

SILENT_AFTER = 180.0  # seconds: an agent reports every 60, so three reports are missing when its node stands still
