"""How the property tests of the core run."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("core", deadline=None)  # on a busy machine a slow example is no failure
settings.load_profile("core")
