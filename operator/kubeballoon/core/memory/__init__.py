"""Decisions about memory: how much each VM of a node may use, how fast it is asked, and what holds it back."""
