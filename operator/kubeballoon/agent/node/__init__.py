"""This package reads a node's memory, stalls and processors from the kernel."""
