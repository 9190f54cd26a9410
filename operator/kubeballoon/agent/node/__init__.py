"""The agent's view of its node: memory, stalls and processors, read from the kernel."""
