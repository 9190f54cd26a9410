"""This package makes all decisions: its functions are pure, its values immutable; it does no I/O and reads no clock.

Memory is in bytes. Times are in seconds of a clock that the caller reads.
"""
