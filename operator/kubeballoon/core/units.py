"""This module defines units of memory, in bytes."""

from __future__ import annotations

GIB = 1 << 30
MIB = 1 << 20
