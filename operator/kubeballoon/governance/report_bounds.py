"""This module limits the trust in a node's report: how old it may be, and to which range its figures are clamped."""

from __future__ import annotations

SILENT_AFTER = 180.0  # seconds: agents report every 60, so three reports in a row are missing


def clamp_to_size(figure: int | None, size: int) -> int | None:
    """Clamp a VM's figure to 0..``size``, bytes or processors: annotations can be forged, guests can say anything."""
    return None if figure is None else max(0, min(figure, size))
