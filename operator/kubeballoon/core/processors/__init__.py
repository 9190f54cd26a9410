"""Decisions about processors: how many of them each VM of a node may use."""
