"""The demo (`make demo`): memory is reclaimed from real guests on a real node, as a MemoryPolicy says."""
