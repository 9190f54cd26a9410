"""A pytest plugin: hypothesis looks for no smaller example once one has failed, which says nothing new of a mutant."""

from __future__ import annotations

from hypothesis import Phase, settings


def pytest_collection() -> None:
    """Take the tests' own settings, which their conftest.py has loaded by now, and change this one."""
    settings.register_profile("unshrunk", settings(), phases=[Phase.explicit, Phase.reuse, Phase.generate])
    settings.load_profile("unshrunk")
