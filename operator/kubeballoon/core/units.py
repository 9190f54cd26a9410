"""What the core decides about, and what it decided."""

from __future__ import annotations

GIB = 1 << 30
MIB = 1 << 20
