"""The decisions: pure functions of immutable values, with no I/O and no clock.

All memory is in bytes, all time in seconds on one monotonic clock that the caller reads.
"""
