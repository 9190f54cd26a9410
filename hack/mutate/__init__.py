"""This package measures how many random changes of the core the tests of the core and of replay notice.

A mutant is the core with one change; it survives if all those tests still pass. cosmic-ray makes most of the changes;
this package chooses among them, limits the time, and judges the result.
"""
