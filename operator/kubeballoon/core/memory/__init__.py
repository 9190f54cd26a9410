"""Decisions about memory: how much each VM of a node may use, and how fast memory is reclaimed from it."""
