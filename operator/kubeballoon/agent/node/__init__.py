"""What the agent reads of its node: memory, stalls and processors, from the kernel."""
