"""This package plays parties that lie to an agent: for the tests in tests/hostile, and for a benchmark."""
