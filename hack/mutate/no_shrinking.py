"""This pytest plugin keeps hypothesis from shrinking failures: the first one already shows that a mutant is noticed."""

from __future__ import annotations

from hypothesis import Phase, settings


def pytest_collection() -> None:
    """Load a profile like the tests' own, which their conftest.py has loaded by now, but without shrinking."""
    settings.register_profile("no-shrinking", settings(), phases=[Phase.explicit, Phase.reuse, Phase.generate])
    settings.load_profile("no-shrinking")
